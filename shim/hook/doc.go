// Package hook answers the hooks of coding agents: the agent's program starts
// it before each tool call, hands it the call as JSON on standard input, and
// does what it answers.
//
//	outcall-agent hook claude-code     PreToolUse of Claude Code
//	outcall-agent hook codex           PreToolUse of Codex
//	outcall-agent hook gemini          BeforeTool of Gemini CLI
//
// A call becomes questions of the agent API (tools.go): a shell's command line
// one for each simple command in it, a file tool one for its path, a fetch one
// for its URL, any other tool one by its name. The call goes on if all are
// allowed, and the first that is not denies it.
//
// All three agents run the tool after every end of a hook but one: exit code 2
// with words on standard error. So that is what anything but an allow is here:
// a denial, no verdict, input that cannot be read, a panic, a signal, a time
// that is over. The agent's own denial in JSON is printed, too. An allow prints
// nothing and exits 0, which decides nothing: the agent then asks its user as
// ever. What this process cannot answer for, because it is not started or is
// killed, the command line that `outcall hooks install` writes does.
package hook
