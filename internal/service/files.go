//go:build unix

package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Folders of an image's own checks, below the root: one JSON object of agentproto.Check per
// file.
const (
	healthDir    = "etc/mvm/integrations.d"
	probesDir    = "etc/mvm/probes.d"
	maxCheckFile = 64 << 10 // bytes
)

// ImageChecks reads the checks that the image brings along. A file that cannot be used is
// reported and left out: it must not keep the machine from starting.
func ImageChecks(root string, report func(error)) []agentproto.Check {
	r, err := os.OpenRoot(root)
	if err != nil {
		report(err)
		return nil
	}
	defer func() { _ = r.Close() }()
	var checks []agentproto.Check
	for _, dir := range []struct{ path, kind string }{{healthDir, "health"}, {probesDir, "probe"}} {
		f, err := r.Open(dir.path)
		if err != nil {
			continue // an image need not have any
		}
		entries, err := f.ReadDir(agentproto.MaxServices)
		_ = f.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			report(fmt.Errorf("reading /%s: %w", dir.path, err))
			continue
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".json") || len(checks) >= agentproto.MaxServices {
				continue
			}
			c, err := readCheck(r, path.Join(dir.path, e.Name()), dir.kind)
			if err != nil {
				report(fmt.Errorf("/%s: %w", path.Join(dir.path, e.Name()), err))
				continue
			}
			checks = append(checks, c)
		}
	}
	return checks
}

func readCheck(r *os.Root, name, kind string) (agentproto.Check, error) {
	info, err := r.Stat(name)
	if err != nil {
		return agentproto.Check{}, err
	}
	if !info.Mode().IsRegular() {
		return agentproto.Check{}, fmt.Errorf("not a regular file")
	}
	f, err := r.Open(name)
	if err != nil {
		return agentproto.Check{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxCheckFile+1))
	if err != nil {
		return agentproto.Check{}, err
	}
	return decodeCheck(data, kind)
}

// decodeCheck decodes one check file, strictly.
func decodeCheck(data []byte, kind string) (agentproto.Check, error) {
	if len(data) > maxCheckFile {
		return agentproto.Check{}, fmt.Errorf("more than %d bytes", maxCheckFile)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var c agentproto.Check
	if err := dec.Decode(&c); err != nil {
		return c, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return c, fmt.Errorf("data after its end")
	}
	switch {
	case c.Name == "" || len(c.Name) > 64 || strings.ContainsAny(c.Name, "\x00\n\r\x1b"):
		return c, fmt.Errorf("no usable name")
	case len(c.Command) == 0:
		return c, fmt.Errorf("no command")
	}
	c.Kind = kind
	return c, nil
}
