package linuxenv

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"

	"gopkg.in/yaml.v3"

	"github.com/mvmctl/mvmctl/internal/machine"
)

//go:embed template.yaml
var template []byte

// Template is what may differ from the template of ours. What isolates the host may not.
type Template struct {
	Images   []Image           `yaml:"images"`  // instead of Debian's
	CPUType  map[string]string `yaml:"cpuType"` // by architecture, as Lima names both
	CPUs     int               `yaml:"cpus"`
	Memory   string            `yaml:"memory"` // with a unit: "4GiB"
	Disk     string            `yaml:"disk"`
	Firmware Firmware          `yaml:"firmware"`

	// File is a file of the user's that says these things in Lima's words, "" for none. What it says
	// wins.
	File string `yaml:"-"`
}

// Firmware says what boots the virtual machine.
type Firmware struct {
	LegacyBIOS bool `yaml:"legacyBIOS"` // instead of UEFI, whose firmware a host may not have
}

const maxTemplate = 64 << 10 // bytes of a file of the user's

// Image is where an image of the virtual machine's disk comes from.
type Image struct {
	Location string  `yaml:"location"`
	Arch     string  `yaml:"arch"` // "x86_64" or "aarch64"
	Digest   string  `yaml:"digest,omitempty"`
	Kernel   *Kernel `yaml:"kernel,omitempty"` // for an image without a boot loader
	Initrd   *File   `yaml:"initrd,omitempty"`
}

// Kernel is a kernel beside an image.
type Kernel struct {
	Location string `yaml:"location"`
	Cmdline  string `yaml:"cmdline,omitempty"`
}

// File is a file beside an image.
type File struct {
	Location string `yaml:"location"`
}

// YAML returns the template as limactl reads it.
func (t Template) YAML() ([]byte, error) {
	if t.File != "" {
		if err := t.read(); err != nil {
			return nil, machine.Usagef("lima.template", "it may have images, cpuType, cpus, memory, disk and firmware, as Lima's own templates do; nothing else of ours changes",
				"the template %s (MVM_LIMA_TEMPLATE) cannot be used: %w", t.File, err)
		}
	}
	var doc map[string]any
	if err := yaml.Unmarshal(template, &doc); err != nil {
		return nil, fmt.Errorf("reading our template: %w", err)
	}
	if len(t.Images) > 0 {
		doc["images"] = t.Images
	}
	if len(t.CPUType) > 0 {
		doc["cpuType"] = t.CPUType
	}
	if t.CPUs > 0 {
		doc["cpus"] = t.CPUs
	}
	if t.Firmware.LegacyBIOS {
		doc["firmware"] = t.Firmware
	}
	for key, v := range map[string]string{"memory": t.Memory, "disk": t.Disk} {
		if v != "" {
			doc[key] = v
		}
	}
	return yaml.Marshal(doc)
}

// read reads the user's file.
func (t *Template) read() error {
	f, err := os.Open(t.File)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxTemplate+1))
	switch {
	case err != nil:
		return err
	case len(data) > maxTemplate:
		return fmt.Errorf("it has more than %d bytes", maxTemplate)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(t); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
