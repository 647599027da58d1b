/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VHDX file looks like on disk ([MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format").
 * Offsets and limits only; decoding is in the file named for the structure. All integers are little
 * endian, all units bytes unless said otherwise.
 *
 *   0        64 KiB    128 KiB   192 KiB         256 KiB         320 KiB   1 MiB
 *   | file   | header  | header  | region table  | region table  | free    | log, regions (BAT,
 *   | ident. | 1       | 2       | 1             | 2             |         | metadata) and blocks
 *   everything from 1 MiB on lies at multiples of 1 MiB, in any order, and does not overlap.
 */
#ifndef GODWIT_ENGINE_IMAGE_VHDX_LAYOUT_H
#define GODWIT_ENGINE_IMAGE_VHDX_LAYOUT_H

#define VHDX_ALIGNMENT (1ull << 20) /* of the log, of regions and of blocks */

/* 2.2.1 File Type Identifier, at 0. The first 64 KiB are written once and never again.
 *   0    8  Signature
 *   8  512  Creator, UTF-16, for people only */
#define VHDX_IDENTIFIER_SIZE      (64u << 10)
#define VHDX_IDENTIFIER_SIGNATURE "vhdxfile"
#define VHDX_IDENTIFIER_CREATOR   8
#define VHDX_CREATOR_CHARACTERS   256u

/* 2.2.2 Headers, at 64 and 128 KiB, 4 KiB each.
 *    0   4  Signature
 *    4   4  Checksum: CRC-32C of the 4 KiB with this field as 0
 *    8   8  SequenceNumber: the valid header with the greater one is current
 *   16  16  FileWriteGuid
 *   32  16  DataWriteGuid
 *   48  16  LogGuid: 0 when there is nothing to replay
 *   64   2  LogVersion: 0, when there is something to replay
 *   66   2  Version: 1
 *   68   4  LogLength: multiple of 1 MiB
 *   72   8  LogOffset: multiple of 1 MiB, at least 1 MiB */
#define VHDX_HEADER_1_OFFSET    (64u << 10)
#define VHDX_HEADER_2_OFFSET    (128u << 10)
#define VHDX_HEADER_SIZE        4096u
#define VHDX_HEADER_SIGNATURE   "head"
#define VHDX_HEADER_CHECKSUM    4
#define VHDX_HEADER_SEQUENCE    8
#define VHDX_HEADER_FILE_GUID   16
#define VHDX_HEADER_DATA_GUID   32
#define VHDX_HEADER_LOG_GUID    48
#define VHDX_HEADER_LOG_VERSION 64
#define VHDX_HEADER_VERSION     66
#define VHDX_HEADER_LOG_LENGTH  68
#define VHDX_HEADER_LOG_OFFSET  72
#define VHDX_VERSION            1

/* 2.2.3 Region tables, two copies, 64 KiB each.
 *    0   4  Signature
 *    4   4  Checksum: CRC-32C of the 64 KiB with this field as 0
 *    8   4  EntryCount: at most 2047
 *   16      entries of 32 bytes:
 *             0  16  Guid
 *            16   8  FileOffset: multiple of 1 MiB, at least 1 MiB
 *            24   4  Length: multiple of 1 MiB
 *            28   4  Required: bit 0, whoever does not know this region must refuse the file */
#define VHDX_REGION_1_OFFSET       (192u << 10)
#define VHDX_REGION_2_OFFSET       (256u << 10)
#define VHDX_REGION_TABLE_SIZE     (64u << 10)
#define VHDX_REGION_SIGNATURE      "regi"
#define VHDX_REGION_CHECKSUM       4
#define VHDX_REGION_COUNT          8
#define VHDX_REGION_ENTRIES        16
#define VHDX_REGION_ENTRY_SIZE     32u
#define VHDX_REGION_ENTRY_OFFSET   16
#define VHDX_REGION_ENTRY_LENGTH   24
#define VHDX_REGION_ENTRY_REQUIRED 28
#define VHDX_REGION_COUNT_MAX      2047u

/* 2.3.1 Log entries: 4 KiB sectors, first descriptors, then data.
 *    0   4  Signature
 *    4   4  Checksum: CRC-32C of the whole entry with this field as 0
 *    8   4  EntryLength: multiple of 4 KiB
 *   12   4  Tail: offset in the log of the oldest entry still needed, multiple of 4 KiB
 *   16   8  SequenceNumber: greater than 0, one more than the entry before
 *   24   4  DescriptorCount
 *   32  16  LogGuid: as in the header
 *   48   8  FlushedFileOffset: the file is at least this long
 *   56   8  LastFileOffset: everything in the file lies before this
 *   64      descriptors of 32 bytes:
 *             0   4  Signature
 *             4   4  TrailingBytes   of a "desc": the last 4 bytes of its sector
 *             8   8  LeadingBytes    of a "desc": the first 8; of a "zero": ZeroLength
 *            16   8  FileOffset: multiple of 4 KiB
 *            24   8  SequenceNumber: as in the entry
 *   data sectors, one for each "desc":
 *      0   4  Signature
 *      4   4  SequenceHigh
 *      8 4084 bytes 8 to 4091 of the sector
 *   4092   4  SequenceLow */
#define VHDX_LOG_SECTOR           4096u
#define VHDX_LOG_SIGNATURE        "loge"
#define VHDX_LOG_ZERO_SIGNATURE   "zero"
#define VHDX_LOG_DESC_SIGNATURE   "desc"
#define VHDX_LOG_DATA_SIGNATURE   "data"
#define VHDX_LOG_CHECKSUM         4
#define VHDX_LOG_LENGTH           8
#define VHDX_LOG_TAIL             12
#define VHDX_LOG_SEQUENCE         16
#define VHDX_LOG_DESCRIPTOR_COUNT 24
#define VHDX_LOG_GUID             32
#define VHDX_LOG_FLUSHED          48
#define VHDX_LOG_LAST             56
#define VHDX_LOG_HEADER_SIZE      64u
#define VHDX_LOG_DESCRIPTOR_SIZE  32u
#define VHDX_DESC_TRAILING        4
#define VHDX_DESC_LEADING         8
#define VHDX_DESC_OFFSET          16
#define VHDX_DESC_SEQUENCE        24
#define VHDX_DATA_SEQUENCE_HIGH   4
#define VHDX_DATA_BYTES           8
#define VHDX_DATA_LENGTH          4084u
#define VHDX_DATA_SEQUENCE_LOW    4092

/* 2.5 BAT entries, 64 bits: state in bits 0-2, bits 3-19 zero, file offset in MiB in bits 20-63.
 * After every chunk_ratio payload entries comes one for a sector bitmap block, which only
 * differencing files use. chunk_ratio = 2^23 * LogicalSectorSize / BlockSize. */
#define VHDX_BAT_ENTRY_SIZE    8u
#define VHDX_BAT_STATE_MASK    7ull
#define VHDX_BAT_RESERVED_MASK 0xffff8ull
#define VHDX_BAT_OFFSET_MASK   (~0ull << 20)
#define VHDX_CHUNK_SECTORS     (1ull << 23)

/* 2.5.1.1 */
enum vhdx_block_state {
    VHDX_BLOCK_NOT_PRESENT = 0,
    VHDX_BLOCK_UNDEFINED = 1,
    VHDX_BLOCK_ZERO = 2,
    VHDX_BLOCK_UNMAPPED = 3,
    VHDX_BLOCK_UNMAPPED_V095 = 5, /* of the format's draft 0.95; reserved since, zeroes for QEMU */
    VHDX_BLOCK_FULLY_PRESENT = 6,
    VHDX_BLOCK_PARTIALLY_PRESENT = 7, /* differencing files only */
};

/* 2.5.1.2: a sector bitmap block of 1 MiB has a bit for each sector of its chunk: 1 is here, 0 is in
 * the parent; bit 0 of byte 0 is the first. */
#define VHDX_BITMAP_STATE_PRESENT 6u
#define VHDX_BITMAP_SIZE          (1u << 20)

/* 2.6.1 Metadata table: the first 64 KiB of the metadata region.
 *    0   8  Signature
 *   10   2  EntryCount: at most 2047
 *   32      entries of 32 bytes:
 *             0  16  ItemId
 *            16   4  Offset in the region: at least 64 KiB
 *            20   4  Length: at most 1 MiB
 *            24   4  bit 0 IsUser, bit 1 IsVirtualDisk, bit 2 IsRequired */
#define VHDX_METADATA_TABLE_SIZE   (64u << 10)
#define VHDX_METADATA_SIGNATURE    "metadata"
#define VHDX_METADATA_COUNT        10
#define VHDX_METADATA_ENTRIES      32
#define VHDX_METADATA_ENTRY_SIZE   32u
#define VHDX_METADATA_ENTRY_OFFSET 16
#define VHDX_METADATA_ENTRY_LENGTH 20
#define VHDX_METADATA_ENTRY_FLAGS  24
#define VHDX_METADATA_COUNT_MAX    2047u
#define VHDX_METADATA_ITEM_MAX     (1u << 20)
#define VHDX_METADATA_IS_USER      1u
#define VHDX_METADATA_IS_DISK      2u
#define VHDX_METADATA_IS_REQUIRED  4u

/* 2.6.2 Items. File Parameters: BlockSize (a power of two), then bit 0 LeaveBlocksAllocated, bit 1
 * HasParent. */
#define VHDX_PARAMETERS_SIZE    8u
#define VHDX_PARAMETERS_FLAGS   4
#define VHDX_IS_FIXED           1u
#define VHDX_HAS_PARENT         2u
#define VHDX_BLOCK_SIZE_MIN     (1u << 20)
#define VHDX_BLOCK_SIZE_MAX     (256u << 20)
#define VHDX_BLOCK_SIZE_DEFAULT (32u << 20)
#define VHDX_VIRTUAL_SIZE_MAX   (64ull << 40)

/* 2.6.2.6 Parent Locator: a header of 20 bytes, entries of 12, then texts in UTF-16.
 *    0  16  LocatorType
 *   18   2  KeyValueCount
 *   20      entries:
 *             0   4  KeyOffset, in the item
 *             4   4  ValueOffset
 *             8   2  KeyLength, bytes
 *            10   2  ValueLength */
#define VHDX_LOCATOR_HEADER_SIZE  20u
#define VHDX_LOCATOR_COUNT        18
#define VHDX_LOCATOR_ENTRY_SIZE   12u
#define VHDX_LOCATOR_VALUE_OFFSET 4
#define VHDX_LOCATOR_KEY_LENGTH   8
#define VHDX_LOCATOR_VALUE_LENGTH 10
#define VHDX_LOCATOR_COUNT_MAX    64u /* the format's own keys are 5 */

#endif
