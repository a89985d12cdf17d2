// Package hookfile writes the hooks of package hook, and the MCP server of
// package mcp, into the settings of an agent's program in a project, and takes
// them out again.
//
// A change is made to the file's text, at the places that change: what else
// stands there keeps its bytes. It is planned first (Install, Remove), for its
// difference is shown before it is written (Write).
//
// The agent can write the project. So a settings file is read and written
// through a descriptor of the project's directory, which no link leads out of;
// links, special files and text that is no JSON are refused, never repaired.
package hookfile
