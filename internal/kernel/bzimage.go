package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Offsets in a bzImage, from https://docs.kernel.org/arch/x86/boot.html (the real-mode header).
const (
	offSetupSects    = 0x1f1 // u8
	offSyssize       = 0x1f4 // u32, protected-mode code in 16-byte units
	offBootFlag      = 0x1fe // u16, 0xaa55
	offHeaderMagic   = 0x202 // "HdrS"
	offVersion       = 0x206 // u16
	offKernelVersion = 0x20e // u16, +0x200 is the file offset of a string
	offXloadflags    = 0x236 // u16, since 2.12
	offPayload       = 0x248 // u32, since 2.08, from the start of the protected-mode code
	offPayloadLength = 0x24c // u32, since 2.08
	setupHeaderEnd   = 0x268

	xlfKernel64   = 1 << 0 // the kernel has a 64-bit entry point
	minBootProto  = 0x0208
	flagBootProto = 0x020c
)

const (
	maxImage   = 256 << 20 // a boot image: Debian's is 14 MB, a distribution's largest about 80 MB
	maxVMLinux = 512 << 20 // uncompressed: Debian's is 53 MB
)

// bzHeader is what we need of a bzImage's setup header, checked against the file's size.
type bzHeader struct {
	release       string
	payloadOffset int64
	payloadLength int64
}

// isBzImage tells whether head, the first bytes of a file, has the boot protocol's magic.
func isBzImage(head []byte) bool {
	return len(head) >= offHeaderMagic+4 &&
		binary.LittleEndian.Uint16(head[offBootFlag:]) == 0xaa55 &&
		string(head[offHeaderMagic:offHeaderMagic+4]) == "HdrS"
}

// parseBzHeader reads and checks the setup header of a bzImage of the given size.
func parseBzHeader(r io.ReaderAt, size int64) (bzHeader, error) {
	var head [setupHeaderEnd]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return bzHeader{}, truncated("the bzImage header", err)
	}
	le := binary.LittleEndian
	if !isBzImage(head[:]) {
		return bzHeader{}, badf("it has no bzImage header")
	}
	version := le.Uint16(head[offVersion:])
	if version < minBootProto {
		return bzHeader{}, badf("its boot protocol %d.%02d is older than 2.08", version>>8, version&0xff)
	}
	if version >= flagBootProto && le.Uint16(head[offXloadflags:])&xlfKernel64 == 0 {
		return bzHeader{}, badf("it is a 32-bit kernel")
	}
	sects := int64(head[offSetupSects])
	if sects == 0 {
		sects = 4 // "for backwards compatibility"
	}
	setup := (sects + 1) * 512
	if need := setup + int64(le.Uint32(head[offSyssize:]))*16; need > size {
		return bzHeader{}, badf("it is truncated: %d of at least %d bytes", size, need)
	}
	h := bzHeader{
		payloadOffset: setup + int64(le.Uint32(head[offPayload:])),
		payloadLength: int64(le.Uint32(head[offPayloadLength:])),
	}
	if h.payloadLength < 16 || h.payloadOffset+h.payloadLength > size {
		return bzHeader{}, badf("its payload (%d bytes at %d) lies outside the file of %d bytes",
			h.payloadLength, h.payloadOffset, size)
	}
	ptr := int64(le.Uint16(head[offKernelVersion:])) + 0x200
	if ptr == 0x200 || ptr >= setup {
		return bzHeader{}, badf("its header has no version string")
	}
	text := make([]byte, min(256, setup-ptr))
	if _, err := r.ReadAt(text, ptr); err != nil && !errors.Is(err, io.EOF) {
		return bzHeader{}, truncated("the version string", err)
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	h.release, _, _ = strings.Cut(string(text), " ")
	if err := checkRelease(h.release); err != nil {
		return bzHeader{}, err
	}
	return h, nil
}

// extractBzImage writes the kernel inside a bzImage to w. errUnsupported means that its
// compression has no decoder here.
func extractBzImage(ctx context.Context, r io.ReaderAt, h bzHeader, w io.Writer) error {
	var head [6]byte
	var tail [4]byte
	if _, err := r.ReadAt(head[:], h.payloadOffset); err != nil {
		return truncated("the payload", err)
	}
	// Whatever the compression, the last four bytes hold the uncompressed size: gzip has them by
	// itself, for the others the build appends them (scripts/Makefile.lib, size_append).
	if _, err := r.ReadAt(tail[:], h.payloadOffset+h.payloadLength-4); err != nil {
		return truncated("the payload", err)
	}
	want := int64(binary.LittleEndian.Uint32(tail[:]))
	comp, length := sniffCompression(head[:]), h.payloadLength
	switch comp {
	case "":
		return badf("its payload begins with % x, which is no compression we know", head)
	case compGzip:
	case compNone: // CONFIG_KERNEL_UNCOMPRESSED: no size is appended
		want = length
	default:
		length -= 4
	}
	if want > maxVMLinux {
		return badf("its payload claims to expand to %d bytes", want)
	}
	n, err := decompress(ctx, w, io.NewSectionReader(r, h.payloadOffset, length), comp, want)
	if err != nil {
		return err
	}
	if n != want {
		return badf("its payload expands to %d bytes instead of %d", n, want)
	}
	return nil
}
