package guestinit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// TestConfigStream: whatever a container's input brings instead of a configuration, the agent does
// not listen.
func TestConfigStream(t *testing.T) {
	framed := func(n uint32, text string) []byte { return append(binary.BigEndian.AppendUint32(nil, n), text...) }
	for name, in := range map[string][]byte{
		"nothing":          nil,
		"half a length":    {0, 0},
		"too long":         framed(agentproto.MaxConfig+1, "{}"),
		"the largest":      framed(1<<32-1, "{}"),
		"cut":              framed(100, `{"protocol":1`),
		"empty":            framed(0, ""),
		"no configuration": framed(2, "{}"),
		"no JSON":          framed(5, "hello"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readConfigStream(bytes.NewReader(in))
			if e, ok := errors.AsType[*agentproto.Error](err); !ok || e.Code != agentproto.CodeUnprovisioned {
				t.Errorf("%v", err)
			}
		})
	}
}
