package machine

import (
	"slices"
	"time"
)

// Service is a program that the guest's agent keeps running.
type Service struct {
	Name     string            `json:"name"`
	Command  []string          `json:"command"`
	PreStart []string          `json:"pre_start,omitempty"` // runs to success before each start
	Env      map[string]string `json:"env,omitempty"`
	Dir      string            `json:"dir,omitempty"`
	User     string            `json:"user,omitempty"`
	LogFile  string            `json:"log_file,omitempty"` // of the guest
	Restart  string            `json:"restart,omitempty"`  // "always" (default), "on-failure" or "never"
}

// Check is a health check: a command that must exit 0 in time.
type Check struct {
	Name     string        `json:"name"`
	Command  []string      `json:"command"`
	Service  string        `json:"service,omitempty"`  // it speaks for
	Interval time.Duration `json:"interval,omitempty"` // 0: 10 s
	Timeout  time.Duration `json:"timeout,omitempty"`  // 0: 5 s
	Grace    time.Duration `json:"grace,omitempty"`    // failures this long after the start do not count
	Retries  int           `json:"retries,omitempty"`  // failures in a row until unhealthy; 0: 3
}

// MaxServices is the most services or checks that one machine may have.
const MaxServices = 256

// CheckServices validates services and checks.
func CheckServices(services []Service, checks []Check) error {
	if len(services) > MaxServices || len(checks) > MaxServices {
		return Usagef("limit.entries", "start fewer programs in one machine", "more than %d services or checks", MaxServices)
	}
	names := map[string]bool{}
	for _, s := range services {
		switch {
		case !validName(s.Name):
			return Usagef("input.service", "use lower-case letters, digits and '-'", "%q is not a service's name", clip(s.Name))
		case len(s.Command) == 0 || s.Command[0] == "":
			return Usagef("input.service", "give it a command = [\"program\", \"argument\"]", "service %q has no command", s.Name)
		case !slices.Contains([]string{"", "always", "on-failure", "never"}, s.Restart):
			return Usagef("input.service", "use always, on-failure or never", "service %q: %q is no way to restart", s.Name, clip(s.Restart))
		}
		names[s.Name] = true
	}
	for _, c := range checks {
		switch {
		case !validName(c.Name):
			return Usagef("input.service", "use lower-case letters, digits and '-'", "%q is not a check's name", clip(c.Name))
		case len(c.Command) == 0 || c.Command[0] == "":
			return Usagef("input.service", "give it a command = [\"program\", \"argument\"]", "health check %q has no command", c.Name)
		case c.Service != "" && !names[c.Service]:
			return Usagef("input.service", "name one of the services, or leave service out", "health check %q speaks for service %q, which does not exist", c.Name, clip(c.Service))
		case c.Retries < 0 || c.Interval < 0 || c.Timeout < 0 || c.Grace < 0:
			return Usagef("input.service", "write retries = 3 or more, and durations such as \"5s\"", "health check %q has a negative number", c.Name)
		}
	}
	return nil
}
