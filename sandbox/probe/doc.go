// Package probe is what `outcall doctor` tells: the layers of a session, each
// with what this machine gave for it and the mend where it gave nothing.
//
// Nothing is made here. Package sandbox starts a real session, stage by stage,
// and enters into a Report what each stage got; the last of them runs Inside
// as the session's command, which tries from the agent's place what the agent
// must and must not have.
package probe
