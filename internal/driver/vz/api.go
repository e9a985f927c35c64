package vz

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Bounds on what the API may answer, and how long it may take.
const (
	apiTimeout = 10 * time.Second
	maxAnswer  = 256 << 10
	maxHeader  = 16 << 10
)

// Paths and states of vfkit's REST API (its doc/usage.md, and pkg/rest).
const (
	pathState    = "/vm/state"
	pathInspect  = "/vm/inspect"
	stateRunning = "VirtualMachineStateRunning"
	stateFailed  = "VirtualMachineStateError"
	statePaused  = "VirtualMachineStatePaused"

	toStopped = "Stop" // the power button
	toPaused  = "Pause"
	toRunning = "Resume"
)

// api is a client for one vfkit.
type api struct {
	client *http.Client
}

// newAPI returns a client whose connections dial makes.
func newAPI(dial func(context.Context) (net.Conn, error)) *api {
	return &api{&http.Client{
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true, // a handful of requests in a machine's life
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// refusal is vfkit's answer to a request that it does not fulfil.
type refusal struct {
	Path   string
	Status int
	Text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: status %d: %s", r.Path, r.Status, r.Text) }

// call sends a request and reads the answer into it, unless that is nil.
func (a *api) call(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("making a request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vfkit"+path, bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode/100 != 2 {
		var said struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(data, &said) // one without words has its status
		return &refusal{path, resp.StatusCode, vmm.Escape(vmm.Clip(said.Error, 400))}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return machine.Errorf("vmm.api", "report it, with the VMM's log", "vfkit broke its API at %s: %w", path, err)
	}
	return nil
}

// state asks what the machine does.
func (a *api) state(ctx context.Context) (string, error) {
	var s struct {
		State string `json:"state"`
	}
	err := a.call(ctx, http.MethodGet, pathState, nil, &s)
	return vmm.Clip(s.State, 64), err
}

// change asks for another state.
func (a *api) change(ctx context.Context, to string) error {
	return a.call(ctx, http.MethodPost, pathState, map[string]string{"state": to}, nil)
}

// errNoTerminal says that the machine has no console.
var errNoTerminal = errors.New("vfkit names no terminal for the console")

// terminal asks for the path of the console's terminal.
func (a *api) terminal(ctx context.Context) (string, error) {
	var vm struct {
		Devices []struct {
			Kind    string `json:"kind"`
			PtyName string `json:"ptyName"`
		} `json:"devices"`
	}
	if err := a.call(ctx, http.MethodGet, pathInspect, nil, &vm); err != nil {
		return "", err
	}
	for _, d := range vm.Devices {
		if d.PtyName != "" {
			return d.PtyName, nil
		}
	}
	return "", errNoTerminal
}
