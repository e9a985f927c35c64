package guestinit

import (
	"maps"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// environment is what every process of the machine gets: the config drive's, with our user
// land at the end of the search path, where it fills gaps and hides nothing of the image.
func environment(c *agentproto.Config, defaultPath string) map[string]string {
	env := maps.Clone(c.Env)
	if env == nil {
		env = map[string]string{}
	}
	path := env["PATH"]
	if path == "" {
		path = defaultPath
	}
	env["PATH"] = path + ":" + agentproto.GuestBin
	return env
}
