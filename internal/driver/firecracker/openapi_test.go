package firecracker

import (
	"embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// apiDocuments are Firecracker's own, unchanged (testdata/README.md, NOTICE and LICENSE there).
//
//go:embed testdata/*.yaml
var apiDocuments embed.FS

// document is as much of a Swagger 2.0 document as Firecracker's use.
type document struct {
	Info struct {
		Version string `yaml:"version"`
	} `yaml:"info"`
	Paths       map[string]map[string]operation `yaml:"paths"`
	Definitions map[string]schema               `yaml:"definitions"`
}

type operation struct {
	Parameters []struct {
		Name     string `yaml:"name"`
		In       string `yaml:"in"`
		Required bool   `yaml:"required"`
		Schema   schema `yaml:"schema"`
	} `yaml:"parameters"`
}

type schema struct {
	Ref        string            `yaml:"$ref"`
	Type       string            `yaml:"type"`
	Required   []string          `yaml:"required"`
	Properties map[string]schema `yaml:"properties"`
	Items      *schema           `yaml:"items"`
	Enum       []any             `yaml:"enum"`
	Minimum    *float64          `yaml:"minimum"`
	Maximum    *float64          `yaml:"maximum"`
	Additional any               `yaml:"additionalProperties"`
}

func readDocument(version string) (document, error) {
	var d document
	data, err := apiDocuments.ReadFile("testdata/v" + version + ".yaml")
	if err != nil {
		return d, err
	}
	return d, yaml.Unmarshal(data, &d)
}

func documents(t *testing.T) []document {
	t.Helper()
	var out []document
	for _, v := range []string{"1.10.1", "1.13.1", "1.16.1"} {
		d, err := readDocument(v)
		if err != nil {
			t.Fatal(err)
		}
		if d.Info.Version != v || len(d.Paths) < 15 || len(d.Definitions) < 20 {
			t.Fatalf("document of %s: version %q, %d paths, %d definitions", v, d.Info.Version, len(d.Paths), len(d.Definitions))
		}
		out = append(out, d)
	}
	return out
}

// check says what is wrong with a request.
func (d document) check(method, path string, body []byte) error {
	template, ids := d.match(path)
	if template == "" {
		return fmt.Errorf("there is no path %s", path)
	}
	op, ok := d.Paths[template][strings.ToLower(method)]
	if !ok {
		return fmt.Errorf("%s has no method %s", template, method)
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	found := false
	for _, p := range op.Parameters {
		switch p.In {
		case "body":
			found = true
			if err := d.valid(p.Schema, value, "body"); err != nil {
				return err
			}
		case "path":
			// Not in the documents, but in the program: both must be the same.
			if m, ok := value.(map[string]any); ok && m[p.Name] != ids[p.Name] {
				return fmt.Errorf("%s is %v in the body and %q in the path", p.Name, m[p.Name], ids[p.Name])
			}
		}
	}
	if !found {
		return fmt.Errorf("%s %s takes no body", method, path)
	}
	return nil
}

// match finds the template of a path and the values of its parameters.
func (d document) match(path string) (template string, ids map[string]string) {
	want := strings.Split(path, "/")
	for t := range d.Paths {
		parts := strings.Split(t, "/")
		if len(parts) != len(want) {
			continue
		}
		ids = map[string]string{}
		same := true
		for i, p := range parts {
			if name, ok := strings.CutPrefix(p, "{"); ok && want[i] != "" {
				ids[strings.TrimSuffix(name, "}")] = want[i]
			} else if p != want[i] {
				same = false
			}
		}
		if same {
			return t, ids
		}
	}
	return "", nil
}

func (d document) valid(s schema, value any, at string) error {
	if s.Ref != "" {
		name := strings.TrimPrefix(s.Ref, "#/definitions/")
		to, ok := d.Definitions[name]
		if !ok {
			return fmt.Errorf("%s: the document has no definition of %q", at, s.Ref)
		}
		return d.valid(to, value, at)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, value) {
		return fmt.Errorf("%s: %v is none of %v", at, value, s.Enum)
	}
	switch s.Type {
	case "object":
		return d.validObject(s, value, at)
	case "array":
		list, ok := value.([]any)
		if !ok || s.Items == nil {
			return fmt.Errorf("%s: %v is no array, or the document does not say of what", at, value)
		}
		for i, v := range list {
			if err := d.valid(*s.Items, v, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case "string":
		if _, ok := value.(string); !ok {
			return fmt.Errorf("%s: %v is no string", at, value)
		}
	case "boolean":
		if _, ok := value.(bool); !ok {
			return fmt.Errorf("%s: %v is no boolean", at, value)
		}
	case "integer":
		n, ok := value.(float64)
		if !ok || n != math.Trunc(n) {
			return fmt.Errorf("%s: %v is no integer", at, value)
		}
		if s.Minimum != nil && n < *s.Minimum || s.Maximum != nil && n > *s.Maximum {
			return fmt.Errorf("%s: %v is out of range", at, value)
		}
	default:
		return fmt.Errorf("%s: the document has the type %q, which this test does not know", at, s.Type)
	}
	return nil
}

func (d document) validObject(s schema, value any, at string) error {
	m, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %v is no object", at, value)
	}
	for _, name := range s.Required {
		if _, ok := m[name]; !ok {
			return fmt.Errorf("%s: %s is missing", at, name)
		}
	}
	for name, v := range m {
		p, ok := s.Properties[name]
		if !ok {
			return fmt.Errorf("%s: there is no property %s", at, name)
		}
		if err := d.valid(p, v, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}
