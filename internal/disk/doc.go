// Package disk writes and reads ext4 disk images in pure Go: no root, no mount, no host
// tools, and the same bytes for the same inputs on every system.
//
// A [Writer] streams a file tree into an image: [CreateFile] wraps it for a new file,
// [CreateEmpty] makes the sparse writable disk of a machine, [CreateDrive] the small
// read-only drives that carry configuration and secrets. [Open] reads images that anybody
// may have written; nothing in them is trusted. [CopySparse] and [UsedBytes] handle image
// files as files.
//
// A tree may come in layers ([Writer.StartLayer]), of which a later one replaces and hides what
// earlier ones put there; the blocks that this frees are used again or read as zeros.
//
// It is not a file system driver (an image is written once and is never edited after Close), not a repair tool (damage is reported, not mended), and it knows
// nothing of machines, stores or partitions: an image is one bare ext4 file system.
//
// Called by layer and image (root file systems), engine (drives, upper disks, diff and
// commit) and driver/drivertest.
//
// The on-disk format follows the kernel's Documentation/filesystems/ext4. Images have
// 4 KiB blocks, 256-byte inodes, extents, flex_bg, metadata_csum, sparse_super and
// dir_index, and not resize_inode, 64bit, inline_data, ea_inode or bigalloc; Linux 5.4 and
// later mount them. Nothing is kept back for root.
package disk
