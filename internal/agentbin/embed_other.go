//go:build !amd64 && !arm64

package agentbin

import "embed"

// embedded is empty: there are no microVMs for this processor.
var embedded embed.FS //nolint:gochecknoglobals // the same name as in the files that embed
