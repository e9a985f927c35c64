package docker

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
)

const (
	remedyStart  = "start it: `sudo systemctl start docker`, or Docker Desktop, or without root `systemctl --user start docker`"
	remedyGroup  = "join its group and log in again: `sudo usermod -aG docker $USER`; or use an engine without root: https://docs.docker.com/engine/security/rootless/"
	remedySocket = "choose an engine of this host: unset DOCKER_HOST and DOCKER_CONTEXT, or set DOCKER_HOST=unix:///var/run/docker.sock"
)

// maxSettings bounds a file of the docker command's settings.
const maxSettings = 1 << 20

// findSocket finds the engine's socket as the docker command does: DOCKER_HOST, the current
// context, and then the places where engines with and without root and Docker Desktop put it.
// Only an engine of this host will do: it has to see our files.
func findSocket(getenv func(string) string) (string, error) {
	if host := getenv("DOCKER_HOST"); host != "" {
		return socketOf("DOCKER_HOST", host)
	}
	dir := getenv("DOCKER_CONFIG")
	if home := getenv("HOME"); dir == "" && filepath.IsAbs(home) {
		dir = filepath.Join(home, ".docker")
	}
	if filepath.IsAbs(dir) {
		host, name, err := contextHost(dir, getenv("DOCKER_CONTEXT"))
		if err != nil || host != "" {
			if err == nil {
				return socketOf("the docker context "+quote(name), host)
			}
			return "", err
		}
	}
	places := []string{"/var/run/docker.sock"}
	if run := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
		places = append(places, filepath.Join(run, "docker.sock"))
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		places = append(places, filepath.Join(home, ".docker", "run", "docker.sock"))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil || errors.Is(err, fs.ErrPermission) {
			return p, nil
		}
	}
	return "", driver.Unavailable("backend.missing", "install it (Debian: `sudo apt install docker.io`), or "+remedyStart,
		"no Docker engine runs here: there is no %s", places[0])
}

func socketOf(who, host string) (string, error) {
	socket, ok := strings.CutPrefix(host, "unix://")
	if !ok || !filepath.IsAbs(socket) {
		return "", driver.Unavailable("backend.remote", remedySocket, "%s is %s, and only the socket of an engine on this host can be used", who, quote(host))
	}
	return socket, nil
}

// contextHost returns the address of the current context, "" when that is the default one.
func contextHost(dir, name string) (host, context string, err error) {
	var settings struct {
		CurrentContext string `json:"currentContext"`
	}
	if name == "" {
		if err := readSettings(filepath.Join(dir, "config.json"), &settings); err != nil {
			return "", "", err
		}
	}
	name = cmp.Or(name, settings.CurrentContext)
	if name == "" || name == "default" {
		return "", "", nil
	}
	sum := sha256.Sum256([]byte(name)) // a context's folder is called by the digest of its name
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if err := readSettings(filepath.Join(dir, "contexts", "meta", hex.EncodeToString(sum[:]), "meta.json"), &meta); err != nil {
		return "", "", err
	}
	host = meta.Endpoints["docker"].Host
	if host == "" {
		return "", "", driver.Unavailable("backend.remote", "list them with `docker context ls`, choose with `docker context use default`",
			"the docker context %s names no engine", quote(name))
	}
	return host, name, nil
}

// readSettings reads a JSON file; one that does not exist leaves v alone.
func readSettings(path string, v any) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer func() { _ = f.Close() }()
		err = json.NewDecoder(io.LimitReader(f, maxSettings)).Decode(v)
	}
	if err != nil {
		return driver.Unavailable("backend.remote", "correct it, or set DOCKER_HOST", "reading the docker command's settings %s: %w", path, err)
	}
	return nil
}
