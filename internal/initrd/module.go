package initrd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

const (
	maxModule = 64 << 20 // uncompressed; the largest in a distribution has about 20 MB
	maxWindow = 64 << 20 // memory that a compressed file may ask for; the kernel's build uses 2 MiB
)

// readModule returns a module uncompressed. Its first bytes tell the compression, whatever its
// name says.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return expand(f)
}

// expand reads a whole module, plain or compressed by one of the kernel's three methods.
func expand(r io.Reader) (raw []byte, err error) {
	// A decoder that panics on hostile input has found a damaged file.
	defer func() {
		if p := recover(); p != nil {
			raw, err = nil, fmt.Errorf("damaged: %v", p)
		}
	}()
	br := bufio.NewReader(r)
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var plain io.Reader = br
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		plain, err = gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		plain, err = xz.NewReader(br, maxWindow)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		var zr *zstd.Decoder
		if zr, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			defer zr.Close()
			plain = zr
		}
	case !bytes.HasPrefix(head, []byte("\x7fELF")):
		return nil, errors.New("neither an ELF file nor compressed")
	default:
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	raw, err = io.ReadAll(io.LimitReader(plain, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if len(raw) > maxModule {
		return nil, fmt.Errorf("larger than %d bytes", maxModule)
	}
	return raw, nil
}
