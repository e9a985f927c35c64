package agentbin

import "embed"

// embedded holds mvm-agent.gz and mvm-agent.sha256 for linux/amd64 when scripts/build.sh has put
// them there.
//
//go:embed bin/amd64
var embedded embed.FS
