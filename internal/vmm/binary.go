package vmm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// Stamp tells one state of a file from another without reading it.
type Stamp struct {
	Path  string    `json:"path"`
	Size  int64     `json:"size"`
	MTime time.Time `json:"mtime"`
}

// StampOf returns the stamp of a program.
func StampOf(path string) (Stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}, err
	}
	return Stamp{Path: path, Size: info.Size(), MTime: info.ModTime().UTC()}, nil
}

// SameAs reports whether two stamps are of one state of one file.
func (s Stamp) SameAs(o Stamp) bool {
	return s.Path == o.Path && s.Size == o.Size && s.MTime.Equal(o.MTime)
}

// Missing is the Probe error for a program that is not there or cannot be run.
func Missing(name, remedy string, cause error) error {
	if !errors.Is(cause, exec.ErrNotFound) && !errors.Is(cause, fs.ErrNotExist) {
		return driver.Unavailable("backend.missing", remedy, "%s cannot be run (%w)", name, cause)
	}
	return driver.Unavailable("backend.missing", remedy, "%s is not installed", name)
}

const queryTimeout = 10 * time.Second // for a program to print its version

// Query runs a program that prints something and ends, and returns what it printed.
func Query(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = CleanEnv()
	cmd.WaitDelay = time.Second // a wrapper's child may hold the pipe
	var out, errs Tail
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if words := errs.String(); words != "" {
			return "", fmt.Errorf("%w: %s", err, words)
		}
		return "", err
	}
	return out.Raw(), nil
}

// CleanEnv is the whole environment of a VMM: what a user exports (LD_PRELOAD, QEMU_*, proxies)
// must not reach it.
func CleanEnv() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"} }

// CompareVersions compares the numbers that two versions begin with; what is not there is 0.
func CompareVersions(a, b string) int {
	next := func(s *string) int {
		digits := *s
		for i := range len(*s) {
			if c := (*s)[i]; c < '0' || c > '9' {
				digits = (*s)[:i]
				break
			}
		}
		*s = (*s)[len(digits):]
		if strings.HasPrefix(*s, ".") {
			*s = (*s)[1:]
		} else {
			*s = "" // "6.1.0-56-cloud": what follows is no number of the version
		}
		n, _ := strconv.Atoi(digits) // "" and what is out of range: nothing sensible to say
		return n
	}
	for a != "" || b != "" {
		if c := cmp.Compare(next(&a), next(&b)); c != 0 {
			return c
		}
	}
	return 0
}
