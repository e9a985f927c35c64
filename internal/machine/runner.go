package machine

// RunnerDriver is the backend of machines that bring their own command line: the runners of
// microvm.nix.
const RunnerDriver = "microvm.nix"

// RunnerDir is the folder below a machine's own that its runner works in: there are the volumes that
// the runner makes.
const RunnerDir = "work"

// WithoutAgent lists what a machine lacks whose guest has no agent of ours, as the words of the
// documentation.
func WithoutAgent() []string {
	return []string{"exec", "console", "cp", "forward", "ports", "diff", "pause", "services", "checks"}
}

// OfRunner lists what no machine of a runner has, its guest's agent or not.
func OfRunner() []string {
	return []string{"command", "env", "volumes", "init", "kernel", "cpus", "memory", "disk", "commit"}
}

// ErrNoAgent is the error of a command that needs the agent of a guest that has none.
func ErrNoAgent() *Error {
	return Errorf("agent.none", "docs/nix.md says how a microvm.nix flake gets the agent; `mvmctl logs --source console` shows what the guest prints",
		"this machine's guest has no agent of mvmctl's: its flake starts a system of its own")
}

// CheckRunner refuses what a runner cannot be told, because its flake says it.
func (s Spec) CheckRunner() error {
	for _, x := range []struct {
		what  string
		given bool
	}{
		{"a command", len(s.Command) > 0},
		{"--init", s.Init != ""},
		{"--env", len(s.Env) > 0},
		{"--workdir", s.Dir != ""},
		{"--user", s.User != ""},
		{"--volume", len(s.Volumes) > 0},
		{"services or checks", len(s.Services)+len(s.Checks) > 0},
		{"--kernel", s.Kernel != ""},
	} {
		if x.given {
			return Usagef("runner.setting", "leave it out, and say it in the flake", "a machine of microvm.nix cannot be given %s: what it is its flake says", x.what)
		}
	}
	return nil
}
