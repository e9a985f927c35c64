package userland

import (
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// Variables that rewritten programs carry.
const (
	varJob    = builtinPrefix + "job"    // the job started last
	varInside = builtinPrefix + "inside" // the job this code runs in
	varBang   = builtinPrefix + "bang"   // what $! stands for
)

// backgroundTemplate is what "cmd &" becomes. The interpreter runs a background
// command as a goroutine and calls it g1, g2, ...; scripts need a process id that
// kill knows, and a status. BODY is replaced by the command. The subshell
// keeps an "exit" in it from skipping the report; standard input is empty, by
// POSIX 2.9.3.1.
const backgroundTemplate = `{ __mvm_job=$(__mvm_job_new KIND "${__mvm_inside-}"); ` +
	`{ __mvm_inside=$__mvm_job; ( BODY ) </dev/null && __mvm_job_end "$__mvm_job" 0 || __mvm_job_end "$__mvm_job" $?; } & ` +
	`__mvm_bang=$(__mvm_job_pid "$__mvm_job"); }`

// rewrite changes background commands and $! in a program, in place, to what
// the job table serves.
func (s *shell) rewrite(node syntax.Node) {
	var background []*syntax.Stmt
	syntax.Walk(node, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.FuncDecl:
			if n.Name != nil {
				s.funcs.Store(n.Name.Value, true)
			}
		case *syntax.ParamExp:
			if n.Param != nil && n.Param.Value == "!" {
				n.Param.Value = varBang
				n.Short = false
			}
		case *syntax.BinaryCmd:
			if (n.Op == syntax.Pipe || n.Op == syntax.PipeAll) && !s.isProgram(n.Y) {
				// The interpreter runs the end of a pipeline in the shell itself.
				n.Y = &syntax.Stmt{Position: n.Y.Position, Cmd: &syntax.Subshell{Lparen: n.Y.Pos(), Stmts: []*syntax.Stmt{n.Y}}}
			}
		case *syntax.Stmt:
			if n.Background && n.Cmd != nil {
				background = append(background, n)
			}
		}
		return true
	})
	for _, stmt := range background {
		s.rewriteBackground(stmt)
	}
}

func (s *shell) rewriteBackground(stmt *syntax.Stmt) {
	kind := "compound"
	if s.isSimple(stmt) {
		kind = "simple"
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(strings.Replace(backgroundTemplate, "KIND", kind, 1)), "")
	if err != nil {
		return // cannot happen: the template is constant
	}
	body := *stmt
	body.Background = false
	syntax.Walk(file, func(n syntax.Node) bool {
		if sub, ok := n.(*syntax.Subshell); ok {
			sub.Stmts = []*syntax.Stmt{&body}
			return false
		}
		return true
	})
	*stmt = syntax.Stmt{Position: stmt.Position, Cmd: file.Stmts[0].Cmd}
}

// isSimple reports whether a statement starts exactly one process, whose id is
// then the job's.
func (s *shell) isSimple(stmt *syntax.Stmt) bool {
	call, ok := stmt.Cmd.(*syntax.CallExpr)
	if !ok || len(call.Args) == 0 || stmt.Negated || hasSubstitution(call) {
		return false
	}
	return call.Args[0].Lit() == "" || s.isProgram(stmt)
}

// isProgram reports whether a statement is a command that is neither a function
// nor a builtin, as far as the text tells.
func (s *shell) isProgram(stmt *syntax.Stmt) bool {
	call, ok := stmt.Cmd.(*syntax.CallExpr)
	if !ok || len(call.Args) == 0 {
		return false
	}
	name := call.Args[0].Lit()
	_, isFunc := s.funcs.Load(name)
	return name != "" && !isFunc && !interp.IsBuiltin(name)
}

func hasSubstitution(node syntax.Node) bool {
	found := false
	syntax.Walk(node, func(n syntax.Node) bool {
		switch n.(type) {
		case *syntax.CmdSubst, *syntax.ProcSubst:
			found = true
		}
		return !found
	})
	return found
}

// rewriteEval does for eval what rewrite does for a program.
func (s *shell) rewriteEval(args []string) []string {
	text := strings.Join(args[1:], " ")
	if !strings.Contains(text, "&") && !strings.Contains(text, "!") && !strings.Contains(text, "()") {
		return args
	}
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return args // eval reports it
	}
	s.rewrite(file)
	var out strings.Builder
	if err := syntax.NewPrinter().Print(&out, file); err != nil {
		return args
	}
	return []string{"eval", out.String()}
}

// markExec marks the places where a command may take the shell's own place:
// every "exec command" that is not inside a subshell, a pipeline or a function,
// and the whole program when it is one simple command.
func markExec(file *syntax.File, isCommand bool) {
	if isCommand && len(file.Stmts) == 1 {
		stmt := file.Stmts[0]
		call, ok := stmt.Cmd.(*syntax.CallExpr)
		if ok && !stmt.Negated && len(call.Args) > 0 && !hasSubstitution(stmt) {
			if name := call.Args[0].Lit(); name != "" && !interp.IsBuiltin(name) {
				call.Args = append([]*syntax.Word{literal(builtinPrefix + "exec")}, call.Args...)
				return
			}
		}
	}
	for _, stmt := range file.Stmts {
		markExecStmt(stmt)
	}
}

func markExecStmt(stmt *syntax.Stmt) {
	if stmt.Background || stmt.Coprocess {
		return
	}
	mark := func(list []*syntax.Stmt) {
		for _, s := range list {
			markExecStmt(s)
		}
	}
	switch cmd := stmt.Cmd.(type) {
	case *syntax.CallExpr:
		if len(cmd.Args) > 1 && cmd.Args[0].Lit() == "exec" && !hasSubstitution(stmt) {
			if !strings.HasPrefix(cmd.Args[1].Lit(), "-") {
				cmd.Args = append([]*syntax.Word{cmd.Args[0], literal(builtinPrefix + "exec")}, cmd.Args[1:]...)
			}
		}
	case *syntax.Block:
		mark(cmd.Stmts)
	case *syntax.IfClause:
		for c := cmd; c != nil; c = c.Else {
			mark(c.Then)
		}
	case *syntax.CaseClause:
		for _, item := range cmd.Items {
			mark(item.Stmts)
		}
	case *syntax.BinaryCmd:
		if cmd.Op == syntax.AndStmt || cmd.Op == syntax.OrStmt {
			markExecStmt(cmd.X)
			markExecStmt(cmd.Y)
		}
	}
}

func literal(s string) *syntax.Word {
	return &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: s}}}
}
