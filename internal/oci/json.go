package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxNesting bounds how deep objects and lists may lie in each other.
const maxNesting = 32

// object is a JSON object whose keys are exactly what was written: two programs that read a
// document with twins in it ("layers" and "Layers", or one key twice) could see two images.
type object map[string]json.RawMessage

// parseDocument reads a whole document, which has to be an object. Keys that are a known one
// in another case are refused.
func parseDocument(data []byte, known ...string) (object, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	return parseObject(data, known...)
}

// checkJSON refuses what is not one JSON value without any key twice in an object.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after its end")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	if depth > maxNesting {
		return errors.New("it is nested too deep")
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	keys := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			key, _ := t.(string)
			if keys[key] {
				return fmt.Errorf("the key %s is there twice", quote(key))
			}
			keys[key] = true
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// parseObject splits an object that checkJSON has seen.
func parseObject(data []byte, known ...string) (object, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil || o == nil {
		return nil, errors.New("it is not a JSON object")
	}
	for key := range o {
		if slices.Contains(known, key) {
			continue
		}
		for _, k := range known {
			if strings.EqualFold(key, k) {
				return nil, fmt.Errorf("the key %s should be %q", quote(key), k)
			}
		}
	}
	return o, nil
}

// get reads one key into v, which has no fields of its own; a missing key or null leaves it.
func (o object) get(key string, v any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("the key %q is not of the right kind", key)
	}
	return nil
}

// has reports whether a key is there and not null.
func (o object) has(key string) bool {
	raw, ok := o[key]
	return ok && string(raw) != "null"
}
