package linuxenv

import (
	_ "embed"
	"fmt"

	"gopkg.in/yaml.v3"
)

//go:embed template.yaml
var template []byte

// Template is what may differ from the template of ours.
type Template struct {
	Images  []Image           // instead of Debian's
	CPUType map[string]string // by architecture, as Lima names both
	CPUs    int
	Memory  string // with a unit: "4GiB"
	Disk    string

	LegacyBIOS bool // instead of UEFI, whose firmware a host may not have
}

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
	if t.LegacyBIOS {
		doc["firmware"] = map[string]any{"legacyBIOS": true}
	}
	for key, v := range map[string]string{"memory": t.Memory, "disk": t.Disk} {
		if v != "" {
			doc[key] = v
		}
	}
	return yaml.Marshal(doc)
}
