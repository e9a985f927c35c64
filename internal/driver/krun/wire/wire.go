// Package wire is what the libkrun driver tells its runner: the machine, in words of libkrun's API.
// Both are of one build, so it has no versions. It is a package of its own because the runner is
// linked dynamically and the driver must not be.
package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// DescriptionFD is the runner's descriptor from which it reads a Description.
const DescriptionFD = 3

// CheckWord is the runner's first argument when it shall only say what a library can do: the second
// is the library's path, and it prints Abilities.
const CheckWord = "check"

// LacksFunction is in what the runner prints of a library that is too old, or was built without
// something that machines need.
const LacksFunction = "lacks the function"

// Description is one machine. Files are named by descriptors that the runner was started with.
type Description struct {
	Library   string   `json:"library"` // path of libkrun
	CPUs      int      `json:"cpus"`
	MemoryMiB int64    `json:"memory_mib"`
	Kernel    Kernel   `json:"kernel"`
	Console   int      `json:"console"` // what the guest's serial port is written to
	Disks     []Disk   `json:"disks"`   // in the order in which the guest sees them
	Channel   *Channel `json:"channel"` // nil: none
}

// Kernel is what is booted.
type Kernel struct {
	File        int    `json:"file"`
	Format      uint32 `json:"format"` // one of the Format constants
	Initrd      int    `json:"initrd"`
	CommandLine string `json:"command_line"`
}

// Values of KRUN_KERNEL_FORMAT_* in libkrun.h.
const (
	FormatRaw uint32 = 0 // on arm64 an Image
	FormatELF uint32 = 1 // amd64 only
)

// Disk is a raw disk image.
type Disk struct {
	ID       string `json:"id"`
	File     int    `json:"file"`
	ReadOnly bool   `json:"read_only"`
}

// Channel is a guest's vsock port that whoever connects to the socket gets to.
type Channel struct {
	Port   uint32 `json:"port"`
	Socket string `json:"socket"`
}

// Abilities are what the runner found in a library.
type Abilities struct {
	MaxCPUs int `json:"max_cpus"` // what KVM lets one machine have; 0: not known
}

// maxDescription bounds a description: it is written into a pipe that nobody reads yet.
const maxDescription = 60 << 10

// Encode returns the bytes of a description.
func (d Description) Encode() ([]byte, error) {
	data, err := json.Marshal(d)
	if err == nil && len(data) > maxDescription {
		err = fmt.Errorf("the machine's description has %d bytes, more than %d", len(data), maxDescription)
	}
	return data, err
}

// Decode reads a description, which ends with r.
func Decode(r io.Reader) (Description, error) {
	var d Description
	dec := json.NewDecoder(io.LimitReader(r, maxDescription+1))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, fmt.Errorf("reading the machine's description: %w", err)
	}
	if d.Library == "" || d.CPUs < 1 || d.MemoryMiB < 1 {
		return d, errors.New("the machine's description is not complete")
	}
	return d, nil
}
