package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	remedyRebuild = "build or pack it again"
	remedyFetch   = "fetch or copy it again: it is cut or damaged"
)

func limitError(format string, args ...any) error {
	return machine.Errorf("archive.limit", "no sensible image needs that much: check where it comes from", format, args...)
}

func nameError(format string, args ...any) error {
	return machine.Errorf("archive.name", remedyRebuild+" without that name", format, args...)
}

func pathError() error {
	return machine.Errorf("archive.path_escape", "do not use it: a sound archive has no \"..\" in its names", "the name leads out of the image")
}

func ownerError(format string, args ...any) error {
	return machine.Errorf("archive.owner", "owners are numbers from 0 to 4294967294: "+remedyRebuild, format, args...)
}

func invalidError(format string, args ...any) error {
	return machine.Errorf("archive.invalid", remedyRebuild, format, args...)
}

// tarError marks an error of archive/tar.
type tarError struct{ error }

func (e tarError) Unwrap() error { return e.error }

// quoteName makes a name of a stranger fit for a message.
func quoteName(name string) string {
	const most = 80
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "…"
	}
	return strconv.Quote(name)
}

// shortened keeps a message, in which whole paths may be quoted, to a few lines.
func shortened(s string) string {
	const most = 240
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most/2], "") + " … " + strings.ToValidUTF8(s[len(s)-most/2:], "")
}

// located is err with the place where it happened, its code and remedy unchanged.
func located(err error, place string) error {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", place, err)
	}
	at := *e
	at.Message = place + ": " + shortened(e.Message)
	at.Err = err
	return &at
}

// explain turns an error of reading a layer, or of writing its entry name ("" if there is none
// yet), into one for users.
func (s *stream) explain(err error, name string) error {
	if e, ok := errors.AsType[explained](err); ok {
		return e.error // by the reader of a file's content, and back through the writer
	}
	if s.meter.ctx.Err() != nil {
		return context.Cause(s.meter.ctx)
	}
	place := s.place
	if name != "" {
		place += ", entry " + quoteName(name)
	}
	if _, ok := errors.AsType[*machine.Error](err); !ok {
		err = explainPlain(err)
	}
	return located(err, place)
}

// explained marks an error that explain is done with.
type explained struct{ error }

func (e explained) Unwrap() error { return e.error }

func explainPlain(err error) error {
	_, isTar := errors.AsType[tarError](err)
	full, isFull := errors.AsType[*disk.FullError](err)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return machine.Errorf("archive.truncated", remedyFetch, "it ends too early")
	case errors.Is(err, tar.ErrFieldTooLong):
		return limitError("%w", err)
	case isTar:
		return invalidError("this is no tar file, or a damaged one: %w", err)
	case isFull:
		return limitError("the image has no room for it: %d %s are needed, %d are there", full.Needed, full.What, full.Available)
	case errors.Is(err, disk.ErrNotDirectory):
		return machine.Errorf("archive.conflict", remedyRebuild+" so that every parent of an entry is a directory, or a link to one", "%w", reason(err))
	case errors.Is(err, disk.ErrRefused):
		return invalidError("%w", reason(err))
	}
	return explainHost(err)
}

// reason is an error of disk.Writer without the name of the entry, which the place has.
func reason(err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "adding ") {
		return inner
	}
	return err
}

// explainHost is for errors of writing the image.
func explainHost(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return machine.Errorf("limit.disk", "free some space there: `mvmctl cache prune --all` removes what can be fetched or made again, `mvmctl image prune` images without a name; or set MVM_CACHE_DIR to a directory with more", "writing the image: %w", err)
	}
	return err
}
