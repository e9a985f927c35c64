package build

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
)

// IsDockerfile reports whether a file is a Dockerfile: by its name, or by its first instruction.
func IsDockerfile(path string) bool {
	base := strings.ToLower(filepath.Base(path))
	if base == "dockerfile" || base == "containerfile" || strings.HasPrefix(base, "dockerfile.") || strings.HasSuffix(base, ".dockerfile") {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, _, _ := strings.Cut(strings.ToUpper(line), " ")
		return word == "FROM" || word == "ARG"
	}
	return false
}
