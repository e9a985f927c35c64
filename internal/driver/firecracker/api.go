package firecracker

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

// Bounds on what the API may answer, and how long it may take. Firecracker answers in
// milliseconds; InstanceStart loads kernel and initramfs and takes longest.
const (
	apiTimeout   = 30 * time.Second
	maxAnswer    = 64 << 10
	maxHeader    = 16 << 10
	maxFaultText = 400
)

// request is one call of the API. The order of a list of them is the order of sending.
type request struct {
	Method string
	Path   string
	Body   any
}

// The bodies of the requests that we send, by the names that Firecracker's API documents give
// them. Fields are those that we set; none is left to a default that has changed or might.
type (
	loggerConfig struct {
		LogPath       string `json:"log_path"`
		Level         string `json:"level"`
		ShowLevel     bool   `json:"show_level"`
		ShowLogOrigin bool   `json:"show_log_origin"`
	}
	machineConfig struct {
		VCPUCount       int   `json:"vcpu_count"`
		MemSizeMiB      int64 `json:"mem_size_mib"`
		SMT             bool  `json:"smt"`
		TrackDirtyPages bool  `json:"track_dirty_pages"`
	}
	bootSource struct {
		KernelImagePath string `json:"kernel_image_path"`
		InitrdPath      string `json:"initrd_path"`
		BootArgs        string `json:"boot_args"`
	}
	drive struct {
		DriveID      string `json:"drive_id"`
		PathOnHost   string `json:"path_on_host"`
		IsRootDevice bool   `json:"is_root_device"`
		IsReadOnly   bool   `json:"is_read_only"`
		CacheType    string `json:"cache_type"`
		IOEngine     string `json:"io_engine"`
	}
	vsockDevice struct {
		GuestCID uint32 `json:"guest_cid"`
		UDSPath  string `json:"uds_path"`
	}
	entropyDevice struct{}
	balloon       struct {
		AmountMiB    int64 `json:"amount_mib"`
		DeflateOnOOM bool  `json:"deflate_on_oom"`
	}
	vmState struct {
		State string `json:"state"`
	}
	action struct {
		ActionType string `json:"action_type"`
	}
)

// Actions and states.
const (
	statePaused  = "Paused"
	stateResumed = "Resumed"

	actionStart  = "InstanceStart"
	actionCtrlAD = "SendCtrlAltDel"
)

// errAPIClosed is in the chain of a call's error when the other side is gone: the process has
// ended or is about to.
var errAPIClosed = errors.New("the API socket is closed")

// fault is a request that Firecracker refused.
type fault struct {
	Request request
	Status  int
	Text    string // its own words, escaped
}

// Error implements error.
func (f *fault) Error() string {
	return fmt.Sprintf("%s %s: %s (HTTP %d)", f.Request.Method, f.Request.Path, f.Text, f.Status)
}

// api is a client of one Firecracker.
type api struct{ http *http.Client }

// newAPI returns a client that reaches Firecracker by dial.
func newAPI(dial func(ctx context.Context) (net.Conn, error)) *api {
	return &api{http: &http.Client{Transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		MaxConnsPerHost:        1,
		MaxIdleConns:           1,
		MaxResponseHeaderBytes: maxHeader,
		Proxy:                  nil, // whatever the environment says
	}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (a *api) close() { a.http.CloseIdleConnections() }

// call sends one request. The error is a *fault when Firecracker refuses, has errAPIClosed in its
// chain when it is gone, ctx's error when ctx ended, and is a vmm.api error for everything else.
func (a *api) call(ctx context.Context, r request) error {
	body, err := json.Marshal(r.Body)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", r.Path, err)
	}
	limited, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, r.Method, "http://localhost"+r.Path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making a request for %s: %w", r.Path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return a.failed(ctx, limited, r, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return a.failed(ctx, limited, r, err)
	case len(data) > maxAnswer:
		return broken(r, fmt.Errorf("its answer is longer than %d bytes", maxAnswer))
	case resp.StatusCode == http.StatusNoContent, resp.StatusCode == http.StatusOK:
		return nil
	}
	var words struct {
		FaultMessage string `json:"fault_message"`
	}
	if json.Unmarshal(data, &words) != nil || words.FaultMessage == "" {
		words.FaultMessage = "no reason given"
	}
	return &fault{Request: r, Status: resp.StatusCode, Text: vmm.Escape(vmm.Clip(words.FaultMessage, maxFaultText))}
}

// failed sorts a failure of the transport.
func (a *api) failed(ctx, limited context.Context, r request, err error) error {
	var op *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for the answer to %s: %w", r.Path, ctx.Err())
	case limited.Err() != nil:
		return broken(r, fmt.Errorf("no answer within %s", apiTimeout))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		return fmt.Errorf("%s: %w: %w", r.Path, errAPIClosed, err)
	}
	return broken(r, err)
}

func broken(r request, err error) error {
	return machine.Errorf("vmm.api", "report it, with the VMM's log", "Firecracker broke its API at %s %s: %w", r.Method, r.Path, err)
}
