package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
)

const (
	maxKernelConfig = 4 << 20 // Debian's generic config: 260 KB
	bannerPrefix    = "Linux version "
	ikconfigStart   = "IKCFG_ST" // kernel/configs.c: then a gzip member, then IKCFG_ED
)

// checkRelease makes sure that a release is a harmless file name: it names directories of ours.
func checkRelease(release string) error {
	for i, c := range []byte(release) {
		digit := '0' <= c && c <= '9'
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte(".+~_-", c) >= 0
		if !digit && (i == 0 || !letter) || i >= 64 {
			return badf("its release %q is not of the form 6.1.0-name", release)
		}
	}
	if release == "" {
		return badf("its release is empty")
	}
	return nil
}

// scanned is what was found by searching an uncompressed kernel.
type scanned struct {
	release string            // from the banner "Linux version …", "" if there is none
	config  map[string]string // from IKCONFIG, nil if it is not built in
}

// scanKernel searches an uncompressed kernel, at most size bytes.
func scanKernel(ctx context.Context, r io.ReaderAt, size int64) (scanned, error) {
	const chunk, overlap = 1 << 20, 128
	var s scanned
	buf := make([]byte, chunk+overlap)
	for off := int64(0); off < size; off += chunk {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		n, err := r.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return s, err
		}
		window := buf[:n]
		if s.release == "" {
			s.release = findBanner(window)
		}
		if i := bytes.Index(window, []byte(ikconfigStart)); i >= 0 && s.config == nil {
			at := off + int64(i) + int64(len(ikconfigStart))
			s.config = readIKConfig(ctx, io.NewSectionReader(r, at, size-at))
		}
	}
	return s, nil
}

// findBanner returns the release in the first "Linux version 6.…" of b: the same words occur in
// format strings, but there no digit follows.
func findBanner(b []byte) string {
	for {
		i := bytes.Index(b, []byte(bannerPrefix))
		if i < 0 {
			return ""
		}
		b = b[i+len(bannerPrefix):]
		word, _, ok := bytes.Cut(b[:min(len(b), 65)], []byte{' '})
		if ok && checkRelease(string(word)) == nil {
			return string(word)
		}
	}
}

// readIKConfig expands an embedded configuration; nil if what follows the mark is none (the mark
// also occurs in scripts and documentation).
func readIKConfig(ctx context.Context, r io.Reader) map[string]string {
	var text bytes.Buffer
	if _, err := decompress(ctx, &text, r, compGzip, maxKernelConfig); err != nil {
		return nil
	}
	return parseConfig(text.String())
}

// parseConfig reads a .config file: the options that are set, strings without their quotes.
func parseConfig(text string) map[string]string {
	// On the path of every `up`: one allocation for all names and values, one for the map.
	config := make(map[string]string, strings.Count(text, "\nCONFIG_")+1)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(line, "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			config[name] = strings.Trim(value, "\"\r\n")
		}
	}
	if len(config) == 0 {
		return nil
	}
	return config
}
