package docker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// config is what the machine's config drive says.
type config struct {
	data     []byte // config.json, unchanged
	hostname string
	mounts   []agentproto.Mount
}

// readConfig takes config.json from the config drive.
func readConfig(path string) (config, error) {
	f, err := os.Open(path)
	if err != nil {
		return config{}, fmt.Errorf("reading the config drive: %w", err)
	}
	defer func() { _ = f.Close() }()
	c, err := readConfigDrive(f)
	if err != nil && machine.CodeOf(err) == "" {
		err = fmt.Errorf("reading the config drive: %w", err)
	}
	return c, err
}

func readConfigDrive(f *os.File) (config, error) {
	info, err := f.Stat()
	if err != nil {
		return config{}, err
	}
	drive, err := disk.Open(f, info.Size())
	if err != nil {
		return config{}, err
	}
	r, _, err := drive.Open(agentproto.ConfigFile)
	if err != nil {
		return config{}, err
	}
	defer func() { _ = r.Close() }()
	c := config{}
	if c.data, err = io.ReadAll(io.LimitReader(r, agentproto.MaxConfig+1)); err != nil {
		return config{}, err
	}
	if len(c.data) > agentproto.MaxConfig {
		return config{}, fmt.Errorf("%s is over %d bytes long", agentproto.ConfigFile, agentproto.MaxConfig)
	}
	var said struct {
		Hostname string `json:"hostname"`
		Main     *struct {
			Init bool `json:"init"`
		} `json:"main"`
		Mounts []agentproto.Mount `json:"mounts"`
	}
	if err := json.Unmarshal(c.data, &said); err != nil {
		return config{}, err
	}
	if said.Main != nil && said.Main.Init {
		return config{}, machine.Errorf("backend.init", "use a backend that boots a kernel, or leave out --init", "a container has no privileges for an init of its own")
	}
	c.mounts = said.Mounts
	if len(said.Hostname) <= 63 && strings.Trim(said.Hostname, hostnameLetters) == "" {
		c.hostname = said.Hostname
	}
	return c, nil
}

// hostnameLetters are those that a host name may have; the engine chooses one for others.
const hostnameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."

// handOver writes the configuration as the agent takes it from its input: the length, four bytes
// with the highest first, and the bytes.
func (c config) handOver(w io.Writer) error {
	message := binary.BigEndian.AppendUint32(nil, uint32(len(c.data))) //nolint:gosec // at most MaxConfig
	_, err := w.Write(append(message, c.data...))
	return err
}
