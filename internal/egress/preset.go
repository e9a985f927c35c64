package egress

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed presets.txt
var presetText string

// Names of the presets.
const (
	Unrestricted = "unrestricted" // all but the host itself and link-local addresses
	Dev          = "dev"          // registries, and where code is kept
	Registries   = "registries"   // what package managers fetch from
	None         = "none"         // nothing
)

// Presets lists their names, the most open first.
func Presets() []string { return []string{Unrestricted, Dev, Registries, None} }

const httpsPort = 443

// Preset returns the policy of a preset. more are rules for what the host's own package managers use,
// and join those of "registries" and "dev".
func Preset(name string, more ...Rule) (Policy, error) {
	p := Policy{Name: name}
	var sections []string
	switch name {
	case Unrestricted:
		p.Open = true
	case Dev:
		sections, p.HiddenNames = []string{Registries, Dev}, true
	case Registries:
		sections = []string{Registries}
	case None:
	default:
		return Policy{}, fmt.Errorf("there is no preset %q", name)
	}
	for _, s := range sections {
		rules, err := section(presetText, s)
		if err != nil {
			return Policy{}, err
		}
		p.Allow = append(p.Allow, rules...)
	}
	if len(sections) > 0 {
		p.Allow = append(p.Allow, more...)
	}
	return p, nil
}

// section reads the rules below one heading.
func section(text, name string) ([]Rule, error) {
	var out []Rule
	in := false
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if strings.HasPrefix(line, "[") {
			in = line == "["+name+"]"
			continue
		}
		if !in {
			continue
		}
		r, err := ParseRule(line)
		if err != nil {
			return nil, err
		}
		if r.High == 0 {
			r.Low, r.High, r.Text = httpsPort, httpsPort, fmt.Sprintf("%s:%d", line, httpsPort)
		}
		out = append(out, r)
	}
	if out == nil {
		return nil, errors.New("there is no section " + name)
	}
	return out, nil
}
