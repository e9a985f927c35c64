//go:build unix && !linux

package agent

import (
	"errors"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// differ needs Linux: overlay file systems are its.
type differ struct{}

func newDiffer(string, string) (*differ, error) { return nil, errors.ErrUnsupported }

func (*differ) close() {}

func (*differ) walk(func(agentproto.Change) error) error { return errors.ErrUnsupported }
