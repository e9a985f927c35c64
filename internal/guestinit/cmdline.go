package guestinit

import "strings"

// bootOptions are the words of the kernel command line that mean something to the agent.
type bootOptions struct {
	probe bool
	reset bool
	slow  bool
}

// parseCmdline reads /proc/cmdline. Words that are not ours, or that a newer host knows and
// this agent does not, are none of our business.
func parseCmdline(line string) bootOptions {
	var o bootOptions
	for word := range strings.FieldsSeq(line) {
		switch word {
		case "mvm.probe":
			o.probe = true
		case "mvm.poweroff=reboot":
			o.reset = true
		case "mvm.slow":
			o.slow = true
		case "--": // what follows is for init and not from the driver
			return o
		}
	}
	return o
}
