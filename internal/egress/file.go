package egress

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"
)

// maxRules bounds a policy.
const maxRules = 4096

// ParsePolicy reads a policy from its file:
//
//	preset = "registries"            # what it begins with; without it, nothing
//	allow = ["api.example.org"]
//	deny = ["10.0.0.0/8"]            # whatever else allows it
//	hidden_names = true              # TLS may hide its host's name (ECH)
//
// more are rules for what the host's own package managers use; see Preset.
func ParsePolicy(name string, data []byte, more ...Rule) (Policy, error) {
	var f struct {
		Preset      string   `toml:"preset"`
		Allow       []string `toml:"allow"`
		Deny        []string `toml:"deny"`
		HiddenNames *bool    `toml:"hidden_names"`
	}
	d := toml.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
			row, _ := strict.Errors[0].Position()
			return Policy{}, fmt.Errorf("line %d: there is no setting %q", row, strict.Errors[0].Key()[0])
		}
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			row, _ := bad.Position()
			return Policy{}, fmt.Errorf("line %d: %w", row, bad)
		}
		return Policy{}, err
	}
	if f.Preset == "" {
		f.Preset = None
	}
	p, err := Preset(f.Preset, more...)
	if err != nil {
		return Policy{}, err
	}
	p.Name = name
	if f.HiddenNames != nil {
		p.HiddenNames = *f.HiddenNames
	}
	for _, list := range []struct {
		texts []string
		to    *[]Rule
	}{{f.Allow, &p.Allow}, {f.Deny, &p.Deny}} {
		rules, err := ParseRules(list.texts)
		if err != nil {
			return Policy{}, err
		}
		*list.to = append(*list.to, rules...)
	}
	if len(p.Allow)+len(p.Deny) > maxRules {
		return Policy{}, fmt.Errorf("%d rules are more than %d", len(p.Allow)+len(p.Deny), maxRules)
	}
	return p, nil
}

// ParseRules reads several rules.
func ParseRules(texts []string) ([]Rule, error) {
	var out []Rule
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Texts are rules as they are written.
func Texts(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.Text)
	}
	return out
}
