/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VHD file looks like on disk ("Virtual Hard Disk Image Format Specification", Microsoft,
 * version 1.0). Offsets and limits only; decoding is in the file named for the structure. All
 * integers are big endian, all units bytes unless said otherwise; a sector is 512 bytes.
 *
 *   fixed:                  | the disk                                         | footer |
 *   dynamic, differencing:  | copy of the footer | header | BAT | blocks ...   | footer |
 */
#ifndef GODWIT_ENGINE_IMAGE_VHD_LAYOUT_H
#define GODWIT_ENGINE_IMAGE_VHD_LAYOUT_H

#define VHD_SECTOR 512u

/* Footer.
 *    0   8  Cookie
 *    8   4  Features
 *   12   4  File Format Version: 0x00010000
 *   16   8  Data Offset: of the header; all ones in a fixed disk
 *   28   4  Creator Application
 *   40   8  Original Size
 *   48   8  Current Size
 *   56   4  Disk Geometry: cylinders (2), heads (1), sectors of a track (1)
 *   60   4  Disk Type
 *   64   4  Checksum: ones' complement of the sum of all bytes, this field as 0
 *   68  16  Unique Id
 *   84   1  Saved State
 * Virtual PC before 2004 wrote 511 bytes, the last one of the reserved ones missing. */
#define VHD_FOOTER_SIZE     512u
#define VHD_FOOTER_SIZE_OLD 511u
#define VHD_FOOTER_COOKIE   "conectix"
#define VHD_FOOTER_VERSION  12
#define VHD_FOOTER_HEADER   16
#define VHD_FOOTER_CREATOR  28
#define VHD_FOOTER_SIZE_NOW 48
#define VHD_FOOTER_GEOMETRY 56
#define VHD_FOOTER_TYPE     60
#define VHD_FOOTER_CHECKSUM 64
#define VHD_FOOTER_ID       68
#define VHD_FOOTER_SAVED    84
#define VHD_VERSION_MAJOR   1u /* upper 16 bits of the version */

enum vhd_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFFERENCING = 4 };

/* Dynamic Disk Header.
 *    0    8  Cookie
 *   16    8  Table Offset
 *   24    4  Header Version: 0x00010000
 *   28    4  Max Table Entries
 *   32    4  Block Size
 *   36    4  Checksum, as the footer's
 *   40   16  Parent Unique ID
 *   56    4  Parent Time Stamp
 *   64  512  Parent Unicode Name, UTF-16 big endian
 *  576       8 Parent Locator Entries of 24 bytes:
 *              0   4  Platform Code
 *              4   4  Platform Data Space: in sectors, or in bytes, depending on who wrote it
 *              8   4  Platform Data Length, bytes
 *             16   8  Platform Data Offset, in the file */
#define VHD_HEADER_SIZE        1024u
#define VHD_HEADER_COOKIE      "cxsparse"
#define VHD_HEADER_TABLE       16
#define VHD_HEADER_VERSION     24
#define VHD_HEADER_ENTRIES     28
#define VHD_HEADER_BLOCK       32
#define VHD_HEADER_CHECKSUM    36
#define VHD_HEADER_PARENT_ID   40
#define VHD_HEADER_PARENT_NAME 64
#define VHD_HEADER_NAME_SIZE   512u
#define VHD_HEADER_LOCATORS    576
#define VHD_LOCATOR_COUNT      8u
#define VHD_LOCATOR_SIZE       24u
#define VHD_LOCATOR_SPACE      4
#define VHD_LOCATOR_LENGTH     8
#define VHD_LOCATOR_OFFSET     16
#define VHD_LOCATOR_RELATIVE   0x57327275u /* W2ru: relative path, UTF-16 little endian */
#define VHD_LOCATOR_ABSOLUTE   0x57326b75u /* W2ku: absolute path, UTF-16 little endian */
#define VHD_LOCATOR_LENGTH_MAX 65536u

/* The BAT: for each block 4 bytes, the sector where it begins, or all ones. A block is a bitmap of
 * its sectors, filled up to a sector, bit 7 of byte 0 being the first, and then its data. */
#define VHD_BAT_ENTRY_SIZE 4u
#define VHD_BAT_UNUSED     0xffffffffu
#define VHD_BLOCK_SIZE_MIN 4096u
#define VHD_BLOCK_SIZE_MAX (256u << 20)
/* What 32 bits of sectors can say; the format's writers stop at 2040 GiB. */
#define VHD_VIRTUAL_SIZE_MAX (2ull << 40)

#endif
