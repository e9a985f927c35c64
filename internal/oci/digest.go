package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	digestPrefix = "sha256:"
	hexLen       = sha256.Size * 2
)

// checkDigest accepts "sha256:" and 64 lower case hex digits and nothing else: what passes may
// become part of a path or an address.
func checkDigest(digest string) error {
	bare, ok := strings.CutPrefix(digest, digestPrefix)
	if ok && isHex(bare) {
		return nil
	}
	return machine.Errorf("digest.invalid", "a digest is sha256: and 64 hex digits in lower case", "%s is not a digest", quote(digest))
}

func isHex(s string) bool {
	return len(s) == hexLen && strings.Trim(s, "0123456789abcdef") == ""
}

// digestOf returns the digest of data.
func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// checkContent refuses data that is not what digest promised.
func checkContent(what string, data []byte, digest string) error {
	if got := digestOf(data); got != digest {
		return digestError("the %s is not the one that was asked for: its digest is %s, not %s", what, shortDigest(got), shortDigest(digest))
	}
	return nil
}

func digestError(format string, args ...any) error {
	return machine.Errorf("integrity.digest", "fetch it again; if it stays so, "+remedyPublisher, format, args...)
}
