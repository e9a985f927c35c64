package lima

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Paths of a session.
const (
	pathProbe    = "/machine/probe"
	pathInstall  = "/machine/install"
	pathOpen     = "/machine/open"
	pathContent  = "/machine/content" // PUT ?key=&size=
	pathDisk     = "/machine/disk"    // PUT ?role=&size=, &passing=1
	pathStart    = "/machine/start"
	pathDial     = "/machine/dial" // ?port=
	pathShutdown = "/machine/shutdown"
	pathKill     = "/machine/kill"
	pathPause    = "/machine/pause"
	pathResume   = "/machine/resume"
	pathRemove   = "/machine/remove"
	pathExport   = "/machine/export" // ?id=
	pathPrune    = "/machine/prune"
	pathKeep     = "/volume/keep"
	pathDrop     = "/volume/drop"
)

// Kinds of frames of a machine's events.
const (
	eventStarted = 's'
	eventConsole = 'c'
	eventVMM     = 'v'
	eventTrouble = 't'
	eventEnded   = 'x' // with a Failure, or nothing
)

const maxJSON = 1 << 20

// codeNoBackend is the code of a virtual machine in which no inner backend works.
const codeNoBackend = "backend.none"

// kernel is a guest kernel whose files are assets; a key is "" for one that there is not.
type kernel struct {
	ID, Release              string
	BzImage, VMLinux, Initrd string // keys
}

// installRequest says what is to be fetched: what is best there, or what emulates.
type installRequest struct {
	Emulate bool `json:"emulate,omitempty"`
}

type probed struct {
	Driver string              `json:"driver"`
	Caps   driver.Capabilities `json:"caps"`
	Slow   bool                `json:"slow"` // the virtual machine itself is emulated
}

// opening is a request to own a machine's folder and to say what is missing.
type opening struct {
	ID     string   `json:"id"` // "" for a session without a machine
	Assets []string `json:"assets"`
}

type opened struct {
	Missing []string `json:"missing"` // assets
	Upper   bool     `json:"upper"`   // the machine's own disk is there
}

// start is a machine.Boot whose files are assets.
type start struct {
	Driver string       `json:"driver"`
	Boot   machine.Boot `json:"boot"` // without paths
	Kernel kernel       `json:"kernel"`
	Agent  string       `json:"agent,omitempty"` // key
	Root   string       `json:"root"`            // key
	Roles  []role       `json:"roles"`

	dir      string // the machine's folder on the host
	noted    note   // its marker
	instance string // the virtual machine
}

type role struct {
	Role     machine.Role `json:"role"`
	ReadOnly bool         `json:"read_only"`
	Passing  bool         `json:"passing,omitempty"` // it is in memory, and has no name once the machine runs
	Kept     string       `json:"kept,omitempty"`    // id of a volume that is kept in the virtual machine
}

// keeping is a request to make a volume, or to delete it.
type keeping struct {
	ID   string `json:"id"`
	Size int64  `json:"size_bytes,omitempty"`
}

type pruned struct {
	Count int `json:"count"`
}

// What an error in the virtual machine is, beside its words.
const (
	kindEnded  = "ended"
	kindNoPort = "no_port"
)

// failed is how an error crosses the session.
type failed struct {
	Kind    string          `json:"kind,omitempty"`
	Failure machine.Failure `json:"failure"`
}

func failedOf(err error) failed {
	f := failed{Failure: machine.FailureOf(err)}
	switch {
	case errors.Is(err, driver.ErrNoSuchPort):
		f.Kind = kindNoPort
	case errors.Is(err, errEnded):
		f.Kind = kindEnded
	}
	return f
}

// err makes an error of it again. What comes from the virtual machine is bounded and made safe.
func (f failed) err() error {
	switch f.Kind {
	case kindNoPort:
		return driver.ErrNoSuchPort
	case kindEnded:
		return errEnded
	}
	x := f.Failure
	if !regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)*$`).MatchString(x.Code) || len(x.Code) > 64 {
		x.Code = "lima.host"
	}
	if x.Code == "internal" {
		x.Code = "lima.host"
	}
	x.Message, x.Remedy, x.Log = clean(x.Message, 1000), clean(x.Remedy, 1000), ""
	if x.Exit < 0 || x.Exit > 255 {
		x.Exit = 0
	}
	x.Detail = cleanLines(x.Detail, 8<<10)
	return x.Err()
}

func clean(s string, n int) string {
	s = machine.Printable(s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…" // no half of a character
	}
	return s
}

func cleanLines(s string, n int) string {
	var out []byte
	for _, r := range s[max(0, len(s)-n):] {
		if r == '\n' {
			out = append(out, '\n')
			continue
		}
		out = append(out, machine.Printable(string(r))...)
	}
	return string(out)
}

// requester makes requests: a session.
type requester interface {
	Do(*http.Request) (*http.Response, error)
}

// request makes a request and returns its answer's body; an error of the other side's is decoded.
func request(ctx context.Context, s requester, method, path string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	resp, err := s.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	var f failed
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxJSON)).Decode(&f); err != nil {
		return nil, fmt.Errorf("the virtual machine answers with status %d", resp.StatusCode)
	}
	return nil, f.err()
}

// call makes a request with a JSON body and decodes the answer.
func call(ctx context.Context, s requester, path string, in, out any) error {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(json.NewEncoder(w).Encode(in)) }()
	defer func() { _ = r.Close() }()
	body, err := request(ctx, s, http.MethodPost, path, r)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(body, maxJSON)).Decode(out); err != nil {
		return fmt.Errorf("reading the virtual machine's answer: %w", err)
	}
	return nil
}
