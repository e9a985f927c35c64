package engine

import (
	"slices"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// servicesOf returns the services and checks of a machine: the image's, and the user's, which
// replace those of the same name.
func servicesOf(have image.Config, spec machine.Spec) ([]agentproto.Service, []agentproto.Check) {
	services, checks := slices.Clone(have.Services), slices.Clone(have.Checks)
	for _, s := range spec.Services {
		services = slices.DeleteFunc(services, func(o agentproto.Service) bool { return o.Name == s.Name })
		services = append(services, agentproto.Service{
			Name: s.Name, PreStart: s.PreStart, Restart: s.Restart, LogFile: s.LogFile,
			Process: agentproto.Process{Args: s.Command, Env: s.Env, Dir: s.Dir, User: s.User},
		})
	}
	for _, c := range spec.Checks {
		checks = slices.DeleteFunc(checks, func(o agentproto.Check) bool { return o.Name == c.Name })
		checks = append(checks, agentproto.Check{
			Name: c.Name, Command: c.Command, Service: c.Service, Retries: c.Retries,
			Interval: agentproto.Duration(c.Interval), Timeout: agentproto.Duration(c.Timeout), Grace: agentproto.Duration(c.Grace),
		})
	}
	return services, checks
}
