package layer

import (
	"context"
	"strings"
)

// Limits bound what an import may cost, all layers together unless it says otherwise. A zero
// means the default.
type Limits struct {
	Bytes   int64 // after decompression, and the sum of the files' sizes; also of what is stored
	File    int64 // of one file
	Entries int64
	Names   int64 // bytes of all paths and of the links followed in them; with Entries this bounds memory
	Depth   int   // of a path
	// A layer of more than RatioFloor bytes may be at most Ratio times as large as what is
	// stored of it.
	Ratio      int64
	RatioFloor int64
}

// DefaultLimits are far beyond any sensible image. Memory is about 300 bytes for each entry, and
// with what the garbage collector leaves lying about twice that.
func DefaultLimits() Limits {
	return Limits{
		Bytes: 256 << 30, File: 256 << 30, Entries: 2_000_000, Names: 512 << 20, Depth: 1024,
		Ratio: 200, RatioFloor: 1 << 30,
	}
}

func (l Limits) orDefaults() Limits {
	d := DefaultLimits()
	or := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	or(&l.Bytes, d.Bytes)
	or(&l.File, d.File)
	or(&l.Entries, d.Entries)
	or(&l.Names, d.Names)
	or(&l.Ratio, d.Ratio)
	or(&l.RatioFloor, d.RatioFloor)
	if l.Depth == 0 {
		l.Depth = d.Depth
	}
	return l
}

// meter counts against the limits. Entries, names and files are counted by who writes the
// image, bytes by the one stream that is being read.
type meter struct {
	ctx     context.Context
	limits  Limits
	entries int64
	names   int64
	files   int64 // bytes
	bytes   int64 // after decompression
	stored  int64
}

// entry counts one entry before it costs anything.
func (m *meter) entry(path string) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	if m.entries++; m.entries > m.limits.Entries {
		return limitError("more than %d entries", m.limits.Entries)
	}
	return m.followed(len(path))
}

// followed counts a name, or the targets of links that were followed for one.
func (m *meter) followed(n int) error {
	if m.names += int64(n); m.names > m.limits.Names {
		return limitError("names of more than %d bytes", m.limits.Names)
	}
	return nil
}

// file counts the size of a file.
func (m *meter) file(size int64) error {
	if size > m.limits.File {
		return limitError("a file of %d bytes, at most %d are allowed", size, m.limits.File)
	}
	if m.files += size; m.files > m.limits.Bytes {
		return limitError("files of more than %d bytes", m.limits.Bytes)
	}
	return nil
}

const (
	maxPath = 4096 // PATH_MAX
	maxName = 255
)

// cleanName makes a name of a tar file a path of disk.Entry.
func (m *meter) cleanName(name string) (string, error) {
	if name == "" {
		return "", nameError("an empty name")
	}
	parts, total := 0, 0
	clean := true
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			clean = false
			continue
		case part == "..":
			return "", pathError()
		case len(part) > maxName:
			return "", nameError("a name of %d bytes, at most %d are possible", len(part), maxName)
		}
		parts++
		total += len(part) + 1
	}
	switch {
	case parts == 0:
		return ".", nil
	case total > maxPath:
		return "", nameError("a path of %d bytes, at most %d are possible", total-1, maxPath-1)
	case parts > m.limits.Depth:
		return "", limitError("a path of %d folders, at most %d are allowed", parts, m.limits.Depth)
	case strings.Contains(name, "\x00"):
		return "", nameError("a NUL in a name")
	case clean:
		return name, nil
	}
	list := make([]string, 0, parts)
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			list = append(list, part)
		}
	}
	return strings.Join(list, "/"), nil
}
