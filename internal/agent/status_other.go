//go:build unix && !linux

package agent

import (
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func bootTime() (time.Duration, bool) { return 0, false }

func memory() agentproto.Memory { return agentproto.Memory{} }
