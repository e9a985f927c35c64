package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Limits of every container.
const (
	maxPids  = 4096
	ownBytes = 48 << 20 // agentproto.GuestDir: links, a socket
)

// createRequest is what POST /containers/create takes, as far as we say it.
type createRequest struct {
	Hostname     string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Entrypoint   []string
	Cmd          []string
	WorkingDir   string
	Image        string
	Labels       map[string]string
	StopSignal   string
	HostConfig   hostConfig
}

type hostConfig struct {
	NetworkMode    string
	IpcMode        string
	Memory         int64
	MemorySwap     int64
	NanoCpus       int64 `json:"NanoCpus"`
	PidsLimit      int64
	CapDrop        []string
	CapAdd         []string
	SecurityOpt    []string
	Init           bool
	Privileged     bool
	ReadonlyRootfs bool
	LogConfig      struct{ Type string }
	Ulimits        []ulimit
	Mounts         []mount
}

type ulimit struct {
	Name       string
	Soft, Hard int64
}

type mount struct {
	Type         string
	Source       string `json:",omitempty"`
	Target       string
	ReadOnly     bool
	TmpfsOptions *tmpfsOptions `json:",omitempty"`

	VolumeOptions *volumeOptions `json:",omitempty"`
}

type volumeOptions struct{ NoCopy bool }

type tmpfsOptions struct {
	SizeBytes int64
	Mode      uint32
}

// inspected is what GET /containers/ID/json says of interest.
type inspected struct {
	ID    string `json:"Id"`
	State struct {
		Running   bool
		Paused    bool
		Pid       int
		OOMKilled bool
		Error     string
	}
	Config struct {
		Labels map[string]string
	}
	HostConfig struct {
		Memory   int64
		NanoCpus int64
	}
}

// capabilities are Docker's default ones but for raw sockets, device nodes and the audit log.
func capabilities() []string {
	return []string{
		"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
		"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
	}
}

func containerName(id string) string { return "mvmctl-" + id }

// limits are the memory and processor limits that this engine can hold.
func (c *client) limits(b machine.Boot) (memory, nanoCPUs int64) {
	if c.info.MemoryLimit {
		memory = b.MemoryBytes
	}
	if c.info.CPUCfsQuota {
		nanoCPUs = int64(b.CPUs) * 1e9
	}
	return memory, nanoCPUs
}

// describe is the container of a machine.
func (c *client) describe(b machine.Boot, p prepared) createRequest {
	memory, cpus := c.limits(b)
	h := hostConfig{
		NetworkMode: "none", IpcMode: "private",
		Memory: memory, MemorySwap: memory, NanoCpus: cpus,
		CapDrop: []string{"ALL"}, CapAdd: capabilities(), SecurityOpt: []string{"no-new-privileges"},
		Ulimits: []ulimit{{Name: "core"}}, // that of open files is the engine's: it cannot give more than it has
		Mounts: []mount{
			{Type: "tmpfs", Target: agentproto.GuestDir, TmpfsOptions: &tmpfsOptions{SizeBytes: ownBytes, Mode: 0o755}},
			{Type: "bind", Source: p.agent, Target: agentproto.GuestAgent, ReadOnly: true},
		},
	}
	h.Mounts = append(h.Mounts, p.mounts()...)
	if c.info.PidsLimit {
		h.PidsLimit = maxPids
	}
	h.LogConfig.Type = "none" // the console is ours to keep, and bounded there
	return createRequest{
		Hostname: p.config.hostname, User: "0:0", WorkingDir: "/",
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
		OpenStdin: true, StdinOnce: true, // the end of our connection is the end of the agent's input
		Env:        []string{"HOME=/root"},
		Entrypoint: []string{agentproto.GuestAgent}, Cmd: []string{agentproto.ContainerCommand},
		Image: p.image, StopSignal: "SIGTERM",
		Labels:     map[string]string{labelImage: p.root, labelMachine: b.ID, labelName: b.Name, labelMounts: p.mountsID()},
		HostConfig: h,
	}
}

// marker is the file, in a machine's folder, that says that the machine has a container, and with
// it writes of its own: the container's ID, or making, and the socket of the engine that has it.
const marker = ownFolder + "/container"

// making stands for the ID of a container that is just being made: it may never have come to be.
const making = "making"

// maxMarker bounds what is read of it.
const maxMarker = 8 << 10

// engineOf returns the socket of the engine that has a machine's container, "" when there is none,
// and whether the container was made.
func engineOf(dir string) (socket string, made bool, err error) {
	return readMarker(filepath.Join(dir, marker))
}

func readMarker(path string) (socket string, made bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	var data []byte
	if err == nil {
		defer func() { _ = f.Close() }()
		data, err = io.ReadAll(io.LimitReader(f, maxMarker))
	}
	if err != nil {
		return "", false, machine.Errorf("state.unreadable", "make it readable", "looking for the machine's container: %w", err)
	}
	id, socket, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), "\n")
	if !filepath.IsAbs(socket) {
		return "", false, machine.Errorf("state.corrupt", "delete the machine with `mvmctl rm --force`", "%s names no engine", path)
	}
	return socket, id != making, nil
}

// note writes the marker.
func note(dir, id, socket string) error { return writeMarker(filepath.Join(dir, marker), id, socket) }

func writeMarker(path, id, socket string) error {
	err := os.WriteFile(path+".new", []byte(id+"\n"+socket+"\n"), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new")
		return machine.Errorf("limit.disk", "free some space", "noting the machine's container: %w", err)
	}
	return nil
}

// ownFolder, in a machine's folder, is what we keep of it there.
const ownFolder = "docker"

func ownDir(b machine.Boot) string { return filepath.Join(b.Dir, ownFolder) }

// ensureContainer returns the machine's container, which does not run, and whether it was made now.
func (c *client) ensureContainer(ctx context.Context, b machine.Boot, image func() (string, error), p prepared) (id string, fresh bool, err error) {
	name := containerName(b.ID)
	var have inspected
	err = c.get(ctx, "/containers/"+name+"/json", nil, &have)
	if err == nil {
		return have.ID, false, c.reuse(ctx, b, have, p)
	}
	if !isStatus(err, http.StatusNotFound) {
		return "", false, engineError(ctx, "looking for the machine's container", err)
	}
	if _, made, err := engineOf(b.Dir); err != nil {
		return "", false, err
	} else if made {
		return "", false, machine.Errorf("backend.disk_gone", fmt.Sprintf("begin with an empty disk: mvmctl reset %s; or delete the machine: mvmctl rm %s", b.Name, b.Name),
			"the container %s, which held what machine %q has written, is not there any more", name, b.Name)
	}
	for try := 1; ; try++ {
		if p.image, err = image(); err != nil {
			return "", false, err
		}
		id, err = c.create(ctx, b, p)
		if err == nil {
			return id, true, nil
		}
		if try == 2 || !isStatus(err, http.StatusNotFound) { // somebody removes images at this moment
			return "", false, engineError(ctx, "making the machine's container", err)
		}
	}
}

// create makes the machine's container. The file that says so is written first: what is left of a
// start that is killed in between is a machine without a container, and no container that nobody
// knows of.
func (c *client) create(ctx context.Context, b machine.Boot, p prepared) (string, error) {
	name := containerName(b.ID)
	if err := note(b.Dir, making, c.socket); err != nil {
		return "", err
	}
	var made struct {
		ID string `json:"Id"`
	}
	err := c.call(ctx, workTimeout, http.MethodPost, "/containers/create", url.Values{"name": {name}}, c.describe(b, p), &made)
	if err == nil && made.ID == "" {
		err = errors.New("it makes a container without an ID")
	}
	if err == nil {
		err = note(b.Dir, made.ID, c.socket)
	}
	if err != nil {
		_ = c.unmake(ctx, b) // it may have been made while we stopped listening
		return "", err
	}
	return made.ID, nil
}

// unmake removes the container that a failed start made. One that cannot be removed stays noted, as
// one that was being made: the next start finds it, or whoever deletes the machine.
func (c *client) unmake(ctx context.Context, b machine.Boot) error {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmakeTimeout)
	defer cancel()
	if err := c.removeMachine(clean, b.ID); err != nil {
		return errors.Join(err, note(b.Dir, making, c.socket))
	}
	return os.Remove(filepath.Join(b.Dir, marker))
}

// reuse makes a container of an earlier start ready for the next: not running, and with the limits
// of now.
func (c *client) reuse(ctx context.Context, b machine.Boot, have inspected, p prepared) error {
	if have.Config.Labels[labelMachine] != b.ID {
		return machine.Errorf("backend.engine", "remove it: `docker rm -f "+containerName(b.ID)+"`", "the container %s is not of this machine", containerName(b.ID))
	}
	if have.Config.Labels[labelMounts] != p.mountsID() {
		return differentMounts(b)
	}
	if have.State.Paused {
		if err := c.turn(ctx, have.ID, false); err != nil {
			return err
		}
	}
	if have.State.Running { // its supervisor died, and the engine did not notice
		if err := c.end(ctx, have.ID); err != nil {
			return err
		}
	}
	memory, cpus := c.limits(b)
	if have.HostConfig.Memory == memory && have.HostConfig.NanoCpus == cpus {
		return nil
	}
	err := c.post(ctx, "/containers/"+have.ID+"/update", nil, map[string]int64{"Memory": memory, "MemorySwap": memory, "NanoCpus": cpus}, nil)
	if err != nil {
		return engineError(ctx, "changing the machine's limits", err)
	}
	return nil
}

// end kills a container and returns once it does not run.
func (c *client) end(ctx context.Context, id string) error {
	if err := c.kill(ctx, id, "SIGKILL"); err != nil {
		return err
	}
	var ended struct{ StatusCode int }
	if err := c.post(ctx, "/containers/"+id+"/wait", url.Values{"condition": {"not-running"}}, nil, &ended); err != nil && !isStatus(err, http.StatusNotFound) {
		return engineError(ctx, "waiting for the container's end", err)
	}
	return nil
}

// turnTries is how often a container is paused whose processes do not freeze: on a busy host with
// cgroup v1 runc gives up on them (seen with 1.1), and the next time it works.
const turnTries = 4

// turn pauses a container or lets it go on. What it does already is success.
func (c *client) turn(ctx context.Context, id string, pause bool) error {
	verb := map[bool]string{true: "pause", false: "unpause"}[pause]
	var err error
	for range turnTries {
		err = c.post(ctx, "/containers/"+id+"/"+verb, nil, nil, nil)
		if _, refused := errors.AsType[*statusError](err); !refused {
			break
		}
		var have inspected
		if c.get(ctx, "/containers/"+id+"/json", nil, &have) == nil && have.State.Running && have.State.Paused == pause {
			return nil
		}
		if !isStatus(err, http.StatusInternalServerError) {
			break
		}
	}
	if err != nil {
		return engineError(ctx, "asking the engine to "+verb+" the container", err)
	}
	return nil
}

// kill sends a signal to the first process of a container. One that does not run, or does not
// exist, is success.
func (c *client) kill(ctx context.Context, id, signal string) error {
	err := c.post(ctx, "/containers/"+id+"/kill", url.Values{"signal": {signal}}, nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusConflict) {
		return nil
	}
	return engineError(ctx, "signalling the container", err)
}

// remove deletes a container with all that it holds, whatever it does.
func (c *client) remove(ctx context.Context, id string) error {
	err := c.call(ctx, workTimeout, http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) {
		return nil
	}
	return engineError(ctx, "removing the container", err)
}
