package kernel

import (
	"bytes"
	"encoding/binary"
)

// isARM64Image tells whether head begins an arm64 Image
// (https://docs.kernel.org/arch/arm64/booting.html, "ARM\x64" at offset 56).
func isARM64Image(head []byte) bool {
	return len(head) >= 64 && string(head[56:60]) == "ARM\x64"
}

// zboot is the header of a compressed EFI image (drivers/firmware/efi/libstub/zboot-header.S).
type zboot struct {
	offset, length int64
	comp           compression
}

// parseZboot reads the header of an EFI zboot image; ok is false for anything else.
func parseZboot(head []byte, size int64) (z zboot, ok bool, err error) {
	if len(head) < 0x40 || string(head[:2]) != "MZ" || string(head[4:8]) != "zimg" {
		return zboot{}, false, nil
	}
	z.offset = int64(binary.LittleEndian.Uint32(head[8:]))
	z.length = int64(binary.LittleEndian.Uint32(head[12:]))
	name, _, _ := bytes.Cut(head[0x18:0x38], []byte{0})
	switch z.comp = compression(name); z.comp {
	case compGzip, compZstd, compXZ, compLZMA:
	case "zstd22":
		z.comp = compZstd
	case "xzkern":
		z.comp = compXZ
	default:
		return zboot{}, true, badf("its payload is compressed by %q", name)
	}
	if z.length < 16 || z.offset+z.length > size {
		return zboot{}, true, badf("its payload (%d bytes at %d) lies outside the file of %d bytes", z.length, z.offset, size)
	}
	return z, true, nil
}
