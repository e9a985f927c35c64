package guestinit

import "strings"

// bootOptions are the words of the kernel command line that mean something to the agent.
type bootOptions struct {
	probe  bool
	reset  bool
	slow   bool
	drives string // "role:serial,…": drives whose serials the VMM chose itself
}

// parseCmdline reads /proc/cmdline. Words that are not ours, or that a newer host knows and
// this agent does not, are none of our business.
func parseCmdline(line string) bootOptions {
	var o bootOptions
	for word := range strings.FieldsSeq(line) {
		if list, ok := strings.CutPrefix(word, "mvm.drives="); ok {
			o.drives = list
			continue
		}
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

// driveNames reads the list of mvm.drives: our name ("mvm-root") by the serial that the drive has.
// What is malformed is left out: that drive is then missing, which is said where it is needed.
func driveNames(list string) map[string]string {
	names := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if role, serial, ok := strings.Cut(pair, ":"); ok && role != "" && serial != "" {
			names[serial] = "mvm-" + role
		}
	}
	return names
}
