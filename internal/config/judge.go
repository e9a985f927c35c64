package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// mistake is a key of mvm.toml that is not what it should be. The decoder would refuse it too,
// in the words of its own types.
type mistake struct {
	key     []string
	code    string
	message string
	remedy  string
}

// in makes it an error that says where the key stands.
func (m *mistake) in(p Project) *Error {
	where := p.Path
	for n := len(m.key); n > 0; n-- { // an inner key of an inline table stands where its table does
		if at := p.At[strings.Join(m.key[:n], ".")]; at != "" {
			where = at
			break
		}
	}
	return &Error{Code: m.code, Where: where, Message: m.message, Remedy: m.remedy}
}

// judge compares what the file says with what Project takes, keys in order.
func judge(tree map[string]any) *mistake { return judgeTable(nil, tree, reflect.TypeFor[Project]()) }

func judgeTable(at []string, table map[string]any, want reflect.Type) *mistake {
	fields := map[string]reflect.Type{}
	for f := range want.Fields() {
		if name := f.Tag.Get("toml"); name != "-" {
			fields[name] = f.Type
		}
	}
	for _, k := range slices.Sorted(maps.Keys(table)) {
		key := append(slices.Clone(at), k)
		t, known := fields[k]
		if !known {
			names := slices.Collect(maps.Keys(fields))
			if len(at) == 0 {
				for _, k := range Keys() {
					names = append(names, k.Name)
				}
			}
			slices.Sort(names)
			return &mistake{key, "config.unknown_key", fmt.Sprintf("unknown key %q", short(key)), "remove it; the keys there are: " + strings.Join(names, ", ")}
		}
		if m := judgeValue(key, table[k], t); m != nil {
			return m
		}
	}
	return nil
}

func judgeValue(key []string, v any, want reflect.Type) *mistake {
	wrong := &mistake{key, "config.invalid", fmt.Sprintf("%s is %s, and has to be %s", short(key), kindOf(v), wanted(want)), "write " + example(key, want)}
	switch want.Kind() {
	case reflect.String:
		if _, ok := v.(string); ok {
			return nil
		}
	case reflect.Bool:
		if _, ok := v.(bool); ok {
			return nil
		}
	case reflect.Int:
		if n, ok := v.(int64); ok && n >= 0 && n <= 1<<31-1 {
			return nil
		} else if ok {
			wrong.message = fmt.Sprintf("%s is %d, and has to be a number from 0 to 2147483647", short(key), n)
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if ok && !slices.ContainsFunc(list, func(e any) bool { _, text := e.(string); return !text }) {
			return nil
		}
	case reflect.Map, reflect.Struct:
		table, ok := v.(map[string]any)
		switch {
		case !ok:
			return wrong
		case want.Kind() == reflect.Struct:
			return judgeTable(key, table, want)
		}
		for _, k := range slices.Sorted(maps.Keys(table)) {
			if m := judgeValue(append(slices.Clone(key), k), table[k], want.Elem()); m != nil {
				return m
			}
		}
		return nil
	}
	return wrong
}

// kindOf is what somebody wrote, in words.
func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case map[string]any:
		return "a table"
	case []any:
		for _, e := range v {
			if _, text := e.(string); !text {
				return "a list with " + kindOf(e) + " in it"
			}
		}
		return "a list of texts"
	case time.Time, toml.LocalDate, toml.LocalTime, toml.LocalDateTime:
		return "a date or time"
	}
	return "something else"
}

// wanted is what a key takes, in words.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a number"
	case reflect.Slice:
		return "a list of texts"
	case reflect.Map:
		if t.Elem().Kind() == reflect.Struct {
			return "a table of tables"
		}
		return "a table of texts"
	}
	return "a table"
}

// example is how a key is written.
func example(key []string, t reflect.Type) string {
	name := short(key[len(key)-1:])
	texts := map[string]string{
		"name": `"web"`, "image": `"nginx:1.27"`, "flake": `".#default"`, "dockerfile": `"."`, "rootfs": `"./root.tar"`, "command": `["serve", "--port", "80"]`,
		"pre_start": `["migrate"]`, "ports": `["8080:80"]`, "volumes": `["data:/var/lib/data"]`, "env_file": `["settings.env"]`, "interval": `"10s"`,
		"timeout": `"5s"`, "grace": `"30s"`, "restart": `"always"`,
	}
	value := texts[name]
	switch t.Kind() {
	case reflect.String:
		if value == "" || strings.HasPrefix(value, "[") {
			value = `"text"`
		}
	case reflect.Bool:
		value = "true"
	case reflect.Int:
		value = "3"
	case reflect.Slice:
		if !strings.HasPrefix(value, "[") {
			value = `["text"]`
		}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Struct {
			return "a line [" + short(key) + ".NAME], and its keys below"
		}
		return "a line [" + short(key) + "], and lines KEY = \"text\" below"
	case reflect.Struct:
		return "a line [" + short(key) + "], and its keys below"
	}
	return name + " = " + value
}

// short is a key as people write it, not endless.
func short(key []string) string {
	s := strings.Join(key, ".")
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return s
}

// positions says where the keys of a file stand that the decoder has accepted.
func positions(path string, data []byte) map[string]string {
	at := map[string]string{}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		var first *unstable.Node
		for k := e.Key(); k.Next(); {
			if first == nil {
				first = k.Node()
			}
			key = append(key, string(k.Node().Data))
		}
		if first == nil {
			continue // a comment
		}
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			table = key
		} else {
			key = append(slices.Clone(table), key...)
		}
		start := p.Shape(first.Raw).Start
		name := strings.Join(key, ".")
		if at[name] == "" {
			at[name] = fmt.Sprintf("%s:%d:%d", path, start.Line, start.Column)
		}
	}
	return at
}
