package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Supervisor is what the server answers for. Implementations are safe for concurrent use.
type Supervisor interface {
	Status() machine.Status
	// Stop begins to end the machine and returns at once.
	Stop(r StopRequest)
	// Pause makes the guest stand still, Resume lets it go on. Both are idempotent.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	Forwards() []machine.Port
	// AddForwards publishes all ports or none; the answer has every port 0 resolved.
	AddForwards(ctx context.Context, ports []machine.Port) ([]machine.Port, error)
	RemoveForward(p machine.Port) error
	// Agent is the connection to the guest agent, or an error while there is none.
	Agent() (http.RoundTripper, error)
}

// Server serves one supervisor's control socket.
type Server struct {
	path string
	l    net.Listener
	http *http.Server
}

// Listen makes the socket, mode 0600, in a folder that only its owner can enter.
func Listen(path string, s Supervisor, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listening on the control socket: %w", err)
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &Server{path: path, l: ownerOnly{l}, http: &http.Server{
		Handler:           handler(s, log),
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250, MaxReceiveBufferPerConnection: 64 << 20, MaxReceiveBufferPerStream: 1 << 20},
	}}, nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends all connections and removes the socket.
func (s *Server) Close() {
	_ = s.http.Close()
	_ = s.l.Close()
	_ = os.Remove(s.path)
}

// ownerOnly drops connections of other users; the folder's mode should have kept them out.
type ownerOnly struct{ net.Listener }

func (o ownerOnly) Accept() (net.Conn, error) {
	for {
		c, err := o.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil && (uid == os.Geteuid() || uid == 0) {
			return c, nil
		}
		_ = c.Close()
	}
}

func handler(s Supervisor, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Status()) })
	mux.HandleFunc("POST "+pathStop, func(w http.ResponseWriter, r *http.Request) {
		var req StopRequest
		if !receive(w, r, &req) {
			return
		}
		s.Stop(req)
		w.WriteHeader(http.StatusAccepted)
	})
	for path, do := range map[string]func(context.Context) error{pathPause: s.Pause, pathResume: s.Resume} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r.Context()); err != nil {
				refuse(w, http.StatusConflict, err)
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	mux.HandleFunc("GET "+pathForwards, func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Forwards()) })
	mux.HandleFunc("POST "+pathForwards, func(w http.ResponseWriter, r *http.Request) {
		var ports []machine.Port
		if !receive(w, r, &ports) {
			return
		}
		bound, err := s.AddForwards(r.Context(), ports)
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		reply(w, bound)
	})
	mux.HandleFunc("DELETE "+pathForwards, func(w http.ResponseWriter, r *http.Request) {
		var p machine.Port
		if !receive(w, r, &p) {
			return
		}
		if err := s.RemoveForward(p); err != nil {
			refuse(w, http.StatusNotFound, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle(agentPrefix+"/", http.StripPrefix(agentPrefix, &agentProxy{agent: s.Agent, buffers: newBuffers(), log: log}))
	return mux
}

func receive(w http.ResponseWriter, r *http.Request, v any) bool {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, machine.Errorf("control.invalid", "update mvmctl: it and the machine's supervisor differ", "malformed request: %w", err))
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(machine.FailureOf(err))
}
