package oci

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	remedyPublisher = "tell whoever publishes the image, or use another one"
	remedyRegistry  = "the registry, or a proxy in front of it, is at fault: try again later or use another registry"
)

// quote makes text of a stranger fit for a message.
func quote(s string) string { return strconv.Quote(short(s, 120)) }

// plain is quote without the quotes, for words that are names in all honest cases.
func plain(s string) string {
	q := quote(s)
	return q[1 : len(q)-1]
}

func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// shortDigest is how a digest is named in messages.
func shortDigest(digest string) string {
	hex := strings.TrimPrefix(digest, digestPrefix)
	if len(hex) > 12 {
		hex = hex[:12]
	}
	return plain(hex)
}

func invalidError(format string, args ...any) error {
	return machine.Errorf("manifest.invalid", remedyPublisher, format, args...)
}

func limitError(format string, args ...any) error {
	return machine.Errorf("manifest.limit", "no sensible image needs that much: check where it comes from", format, args...)
}

func imageLimitError(format string, args ...any) error {
	return machine.Errorf("image.limit", "no sensible image needs that much: check where it comes from", format, args...)
}

func notFoundError(remedy, format string, args ...any) error {
	return machine.Errorf("image.not_found", remedy, format, args...)
}

func archiveError(format string, args ...any) error {
	return machine.Errorf("archive.invalid", "write it again with `docker save` or `skopeo copy`", format, args...)
}

// located is err with the image that it is about, its code and remedy unchanged.
func located(err error, ref string) error {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", plain(ref), err)
	}
	at := *e
	at.Message = plain(ref) + ": " + e.Message
	at.Err = err
	return &at
}
