package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Schema is the version of Manifest that this program writes. Older ones are read, newer ones
// are refused.
const Schema = 1

// maxManifest bounds a manifest file, in bytes.
const maxManifest = 4 << 20

// Manifest describes one image. Content is what it is, and its digest is the image's ID; the
// rest says how it came here.
type Manifest struct {
	Schema  int     `json:"schema"`
	ID      string  `json:"id"` // sha256 of Content, in hex
	Content Content `json:"content"`
	Source  Source  `json:"source"`
	Build   Build   `json:"build"`
}

// Content is everything about an image that a machine started from it can notice. It holds no
// time, name or path of the host, so that one source gives one ID on every host.
type Content struct {
	Arch   string `json:"arch"`   // GOARCH of its programs; "" runs everywhere
	Rootfs string `json:"rootfs"` // "sha256:…" of the ext4 image
	Size   int64  `json:"size"`   // of the ext4 image, in bytes
	Config Config `json:"config"`
}

// Config is what runs in the image and how, where a machine does not say otherwise.
type Config struct {
	Entrypoint []string             `json:"entrypoint,omitempty"`
	Command    []string             `json:"command,omitempty"` // after Entrypoint; replaced by the user's
	Env        map[string]string    `json:"env,omitempty"`
	Dir        string               `json:"dir,omitempty"`
	User       string               `json:"user,omitempty"`
	StopSignal string               `json:"stop_signal,omitempty"` // "SIGTERM" when empty
	Ports      []string             `json:"ports,omitempty"`       // "80/tcp": for people; nothing is published by itself
	Volumes    []string             `json:"volumes,omitempty"`     // guest paths meant to outlive a machine
	Hostname   string               `json:"hostname,omitempty"`
	Users      []agentproto.User    `json:"users,omitempty"`
	Services   []agentproto.Service `json:"services,omitempty"`
	Checks     []agentproto.Check   `json:"checks,omitempty"`
	Access     *agentproto.Access   `json:"access,omitempty"` // what a sealed-by-design image allows; nil: all
	Kernel     string               `json:"kernel,omitempty"` // id of a kernel it needs; "" is the default
}

// Args returns the program of a machine: the user's command, or the image's, after the image's
// entrypoint.
func (c Config) Args(command []string) []string {
	if len(command) == 0 {
		command = c.Command
	}
	return append(append([]string(nil), c.Entrypoint...), command...)
}

// Source says where an image came from.
type Source struct {
	Builder string `json:"builder"`          // one of the Builders
	Ref     string `json:"ref,omitempty"`    // as the user gave it
	Digest  string `json:"digest,omitempty"` // of the manifest, archive or store path, where it has one
}

// Builders.
const (
	BuilderEmbedded   = "embedded"
	BuilderOCI        = "oci"
	BuilderDockerfile = "dockerfile"
	BuilderRootfs     = "rootfs"
	BuilderFlake      = "flake"
	BuilderCommit     = "commit"
)

// Build records how an image was made here.
type Build struct {
	Version string    `json:"version"` // of mvmctl
	Created time.Time `json:"created"`
	TookMS  int64     `json:"took_ms"`
	Notes   []string  `json:"notes,omitempty"` // what was left out or changed, for people
}

// idOf returns the ID of what an image is.
func idOf(c Content) (string, error) {
	data, err := json.Marshal(c) // keys of maps are sorted, so equal content has equal bytes
	if err != nil {
		return "", fmt.Errorf("encoding image: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// decodeManifest reads a manifest and holds it against its own ID.
func decodeManifest(r io.Reader) (Manifest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	if len(data) > maxManifest {
		return Manifest{}, errors.New("it has more than 4 MiB")
	}
	var head struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Manifest{}, err
	}
	if head.Schema > Schema {
		return Manifest{}, fmt.Errorf("it was written by a newer mvmctl (format %d, this one knows up to %d)", head.Schema, Schema)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m Manifest
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return Manifest{}, errors.New("it has data after its end")
	}
	id, err := idOf(m.Content)
	if err != nil {
		return Manifest{}, err
	}
	if id != m.ID {
		return Manifest{}, errors.New("its content is not what its id says")
	}
	return m, nil
}
