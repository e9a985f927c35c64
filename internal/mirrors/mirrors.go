// Package mirrors finds out which registries and mirrors this host's package managers are configured
// to use, so that a machine that may fetch packages may fetch them from there. It reads their
// configuration files and variables, asks nobody, and judges nothing.
package mirrors

import (
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file.
const maxFile = 256 << 10

// variables of package managers that hold addresses: of Go, pip, uv, npm, Yarn, Cargo.
func variables() []string {
	return []string{
		"GOPROXY", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL",
		"NPM_CONFIG_REGISTRY", "npm_config_registry", "YARN_NPM_REGISTRY_SERVER", "CARGO_REGISTRIES_CRATES_IO_INDEX",
	}
}

// files of package managers that hold addresses; a name with a star is a pattern.
func files(home string) []string {
	out := []string{
		"/etc/npmrc", "/etc/pip.conf", "/etc/apt/sources.list", "/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources",
		"/etc/maven/settings.xml", "/etc/apk/repositories", "/etc/yum.repos.d/*.repo",
	}
	for _, f := range []string{
		".npmrc", ".yarnrc.yml", ".pip/pip.conf", ".config/pip/pip.conf", ".config/uv/uv.toml", ".config/go/env", ".cargo/config.toml", ".cargo/config",
		".m2/settings.xml", ".gemrc", ".bundle/config", ".condarc",
	} {
		if home != "" {
			out = append(out, filepath.Join(home, f))
		}
	}
	return out
}

// Hosts returns the hosts of all addresses, each as HOST:PORT, sorted. getenv reads the
// environment.
func Hosts(getenv func(string) string) []string {
	found := map[string]bool{}
	for _, v := range variables() {
		collect(getenv(v), found)
	}
	for _, pattern := range files(getenv("HOME")) {
		paths, _ := filepath.Glob(pattern) // the patterns are ours
		for _, path := range paths {
			collect(read(path), found)
		}
	}
	var out []string
	for host := range found {
		out = append(out, host)
	}
	slices.Sort(out)
	return out
}

// read returns a file, "" for one that cannot be read or is none.
func read(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, _ := io.ReadAll(io.LimitReader(f, maxFile))
	return string(data)
}

// collect notes the host of every http and https address in a text, but for those in comments.
func collect(text string, found map[string]bool) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		for _, a := range regexp.MustCompile(`https?://[^\s"'<>,|)}]+`).FindAllString(line, -1) {
			u, err := url.Parse(a)
			if err != nil || u.Hostname() == "" {
				continue
			}
			port := u.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
			}
			host := u.Hostname()
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			found[strings.ToLower(host)+":"+port] = true
		}
	}
}
