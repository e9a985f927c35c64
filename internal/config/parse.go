package config

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxDepth is how deep arrays and inline tables may nest. Our keys need none; the TOML parser
// recurses, and a file of brackets would make it take all memory.
const maxDepth = 32

// parse adds what a file says to c.
func parse(c Config, path string, data []byte, source Source, o Options) (Config, error) {
	if len(data) == 0 {
		return c, nil
	}
	if line := tooDeep(data); line > 0 {
		return c, &Error{
			Code: "config.invalid", Where: fmt.Sprintf("%s:%d:1", path, line),
			Message: fmt.Sprintf("values nest deeper than %d levels", maxDepth), Remedy: "remove the line",
		}
	}
	// Decoded once by the strict reader, which knows all rules (duplicates, UTF-8, dates), and
	// walked once for the positions, which the decoder does not keep.
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return c, syntaxError(path, err)
	}
	var p unstable.Parser
	p.Reset(data)
	ours := true // the table that the line stands in holds settings
	for p.NextExpression() {
		e := p.Expression()
		key := e.Key()
		if !key.Next() {
			continue // a comment
		}
		first := key.Node()
		at := p.Shape(first.Raw).Start
		where := fmt.Sprintf("%s:%d:%d", path, at.Line, at.Column)
		name := string(first.Data)
		projects := source == SourceProject && isProjectKey(name)
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			ours = !projects
		}
		if projects || !ours {
			continue // LoadProject reads it
		}
		if err := checkName(name, where, source == SourceProject, o); err != nil {
			return c, err
		}
		text, err := plain(tree[name])
		if err == nil {
			err = o.Check(name, text)
		}
		if err != nil {
			return c, invalid(where, fmt.Errorf("%s: %w", name, err), "correct the line, or remove it for the default")
		}
		c = c.With(name, Value{Text: text, Source: source, Where: where})
	}
	if err := p.Error(); err != nil {
		return c, syntaxError(path, err)
	}
	return c, nil
}

func checkName(name, where string, project bool, o Options) error {
	var names []string
	for _, k := range Keys() {
		if k.Name == name {
			return nil
		}
		names = append(names, k.Name)
	}
	if project {
		names = append(names, projectKeys()...)
	}
	remedy := "remove it; `mvmctl config show` lists the keys there are"
	if near := o.Nearest(name, names); near != "" {
		remedy = fmt.Sprintf("did you mean %q? `mvmctl config show` lists the keys there are", near)
	}
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	return &Error{Code: "config.unknown_key", Where: where, Message: fmt.Sprintf("unknown key %q", name), Remedy: remedy}
}

// plain returns a value as its text.
func plain(v any) (string, error) {
	switch v := v.(type) {
	case string:
		if v == "" {
			return "", errors.New("the value is empty")
		}
		return v, nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	}
	return "", errors.New("the value must be a string or an integer")
}

func syntaxError(path string, err error) *Error {
	e := &Error{Code: "config.invalid", Where: path, Message: "this is not TOML: " + err.Error(), Remedy: "correct the line; every value is written key = \"text\" or key = number", Err: err}
	if de, ok := errors.AsType[*toml.DecodeError](err); ok {
		line, col := de.Position()
		e.Where = fmt.Sprintf("%s:%d:%d", path, line, col)
	}
	return e
}

// tooDeep returns the line on which brackets nest deeper than maxDepth, or 0. Brackets in
// strings and comments do not count; text that is not TOML is counted somehow and refused
// later by the parser.
func tooDeep(data []byte) int {
	depth, line := 0, 1
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '\n':
			line++
		case '[', '{':
			if depth++; depth > maxDepth {
				return line
			}
		case ']', '}':
			depth = max(depth-1, 0)
		case '#':
			for i+1 < len(data) && data[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			end := stringEnd(data[i:])
			line += bytes.Count(data[i:i+end], []byte{'\n'})
			i += end - 1
		}
	}
	return 0
}

// stringEnd returns the length of the TOML string at the start of s, at least 1.
func stringEnd(s []byte) int {
	quote, long := s[0], len(s) >= 3 && s[1] == s[0] && s[2] == s[0]
	i := 1
	if long {
		i = 3
	}
	for ; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"':
			i++
		case !long && (s[i] == quote || s[i] == '\n'):
			return i + 1 // an unclosed string ends with its line
		case long && s[i] == quote && i+2 < len(s) && s[i+1] == quote && s[i+2] == quote:
			return i + 3
		}
	}
	return len(s)
}
