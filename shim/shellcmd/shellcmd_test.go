package shellcmd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// show is a script in one line each: `cmd|arg @dir`, `~` inexact, `<file`,
// `>file`, `tcp host:port`.
func show(s *Script) []string {
	var out []string
	for _, c := range s.Commands {
		line := strings.Join(c.Args, "|")
		if c.Inexact {
			line = "~" + line
		}
		for _, d := range c.Dirs {
			if d != "/w" || len(c.Dirs) > 1 {
				line += " @" + d
			}
		}
		if len(c.Env) > 0 {
			line += " " + strings.Join(c.Env, ",")
		}
		out = append(out, line)
	}
	for _, f := range s.Files {
		out = append(out, map[bool]string{true: ">", false: "<"}[f.Write]+f.Path)
	}
	for _, c := range s.Calls {
		out = append(out, c.Protocol+" "+c.Target)
	}
	return out
}

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		``:                      nil,
		`# only a comment`:      nil,
		`git push origin main`:  {"git|push|origin|main"},
		`g'i't "push" or\igin`:  {"git|push|origin"},
		"git \\\n push":         {"git|push"},
		`echo "a \"b\" \$c \n"`: {`echo|a "b" $c \n`},
		`a | b |& c`:            {"a", "b", "c"},
		`a && b || c; d & e`:    {"a", "b", "c", "d", "e"},
		`(a; b) && { c; }`:      {"a", "b", "c"},
		`! a`:                   {"a"},
		`time a b`:              {"a|b"},
		`if a; then b; elif c; then d; else e; fi`:      {"a", "b", "c", "d", "e"},
		`for x in 1 $(a); do b "$x"; done`:              {"a", `~b|"$x"`},
		`for ((i=0;i<3;i++)); do a; done`:               {"a"},
		`while a; do b; done`:                           {"a", "b"},
		`case $(a) in x) b;; *) c;& y) d;; esac`:        {"a", "b", "c", "d"},
		`f() { rm -rf x; }; f`:                          {"rm|-rf|x", "f"},
		`coproc a`:                                      {"a"},
		`[[ -f $(a) ]] && b`:                            {"a", "b"},
		`i=0; ((i+=2)); echo $((i * 3))`:                {"~echo|$((i * 3))"},
		`[[ $? -eq 0 ]] && a`:                           {"a"},
		`x=$#; y=$x; [[ "$y" -gt 1 ]] && a`:             {"a"},
		`for i in 1 2; do a "${b:$i:1}"; done`:          {`~a|"${b:$i:1}"`},
		`for i in {1..3}; do a $((i-1)); done`:          {"~a|$((i-1))"},
		`x=(a b); echo ${x[1]} ${#x[@]} "${!x[@]}"`:     {`~echo|${x[1]}|${#x[@]}|"${!x[@]}"`},
		`[ "$x" = y ] || [ $# -gt 1 ]`:                  {`~[|"$x"|=|y|]`, "~[|$#|-gt|1|]"},
		`printf '%s\n' "$x" $y`:                         {`~printf|%s\n|"$x"|$y`},
		"cat <<E\na \\\n  b\nE":                         {"cat"},
		`sh -c '[[ x || rm y ]]'`:                       nil,
		`sh -c '[[ x || rm ]]'`:                         {"sh|-c|[[ x || rm ]]", "[[|x", "rm|]]"},
		`echo "$(a "$(b)")"`:                            {"b", `~a|"$(b)"`, `~echo|"$(a "$(b)")"`},
		"echo `a`":                                      {"a", "~echo|`a`"},
		`diff <(a) >(b)`:                                {"a", "b", "~diff|<(a)|>(b)"},
		`echo ${x:-$(a)}`:                               {"a", `~echo|${x:-$(a)}`},
		`x=$(a)`:                                        {"a"},
		`x=(1 $(a))`:                                    {"a"},
		`export X=$(a)`:                                 {"a", "~export|X=$(a)"},
		`ls *.go {a,b} ~/x`:                             {"~ls|*.go|{a,b}|/h/x"},
		`A=1 B="$x" make`:                               {"make A,B"},
		`PATH=/evil ls`:                                 {"~env|PATH=/evil", "ls PATH"},
		`LD_PRELOAD=./x.so`:                             {"~env|LD_PRELOAD=./x.so"},
		`for PATH in /evil; do ls; done`:                {"~env|PATH=/evil", "ls"},
		`: ${PATH:=/evil}`:                              {"~env|PATH=/evil", "~:|${PATH:=/evil}"},
		"cat <<E\n$(a)\nE":                              {"a", "cat"},
		"cat <<'E'\n$(a)\nE":                            {"cat"},
		"bash <<'E'\nrm x\nE":                           {"bash", "rm|x"},
		"bash -s a <<E\nrm \\$1\nE":                     {"bash|-s|a", "~rm|$1"},
		`sh <<< "rm x"`:                                 {"sh", "rm|x"},
		`curl x | bash`:                                 {"curl|x", "bash"},
		`bash x.sh a`:                                   {"bash|x.sh|a"},
		`bash -euo pipefail -c "rm x; b" n`:             {"bash|-euo|pipefail|-c|rm x; b|n", "rm|x", "b"},
		`sh -c 'sh -c "rm y"'`:                          {`sh|-c|sh -c "rm y"`, "sh|-c|rm y", "rm|y"},
		`eval "rm x" "; b"`:                             {"eval|rm x|; b", "rm|x", "b"},
		`trap 'rm x' EXIT`:                              {"trap|rm x|EXIT", "rm|x"},
		`trap - EXIT`:                                   {"trap|-|EXIT"},
		`env -i A=1 PATH=/p rm x`:                       {"env|-i|A=1|PATH=/p|rm|x", "~env|PATH=/p", "rm|x A,PATH"},
		`sudo -u root -- rm x`:                          {"sudo|-u|root|--|rm|x", "rm|x"},
		`timeout -k 5 --signal=KILL 10s rm x`:           {"timeout|-k|5|--signal=KILL|10s|rm|x", "rm|x"},
		`nice -n19 nohup rm x`:                          {"nice|-n19|nohup|rm|x", "nohup|rm|x", "rm|x"},
		`ls | xargs -0 -n 1 rm -f`:                      {"ls", "xargs|-0|-n|1|rm|-f", "~rm|-f|..."},
		`xargs`:                                         {"xargs"},
		`command -v git`:                                {"command|-v|git"},
		`command git push`:                              {"command|git|push", "git|push"},
		`/usr/bin/env git push`:                         {"/usr/bin/env|git|push", "git|push"},
		`exec 3>out`:                                    {"exec", ">/w/out"},
		`find . -name x -exec rm {} \; -execdir b {} +`: {"find|.|-name|x|-exec|rm|{}|;|-execdir|b|{}|+", "~rm|{}", "~b|{}"},
		`a > out 2>> err < in &>> all`:                  {"a", ">/w/out", ">/w/err", "</w/in", ">/w/all"},
		`a >| f <> g >& h 2>&1 3>&- 4<&0`:               {"a", ">/w/f", ">/w/g", ">/w/h"},
		`a > /dev/null 2>/dev/stderr`:                   {"a"},
		`a > ../x/../y`:                                 {"a", ">/w/../x/../y"},
		`{ a; b; } > f`:                                 {"a", "b", ">/w/f"},
		`> f`:                                           {">/w/f"},
		`exec 3<>/dev/tcp/evil.test/80`:                 {"exec", "tcp evil.test:80"},
		`a > /dev/udp/::1/53`:                           {"a", "udp [::1]:53"},
		`cd sub && a > f`:                               {"cd|sub", "a @/w/sub", ">/w/sub/f"},
		`cd /x; a`:                                      {"cd|/x", "a @/w @/x"},
		`cd /x || exit 1; a`:                            {"cd|/x", "exit|1 @/w @/x", "a @/w @/x"},
		`(cd /x && a); b > f`:                           {"cd|/x", "a @/x", "b", ">/w/f"},
		`$(cd /x; a) | b`:                               nil, // refused, see below
		`cd -P s && cd .. && a`:                         {"cd|-P|s", "cd|.. @/w/s", "a"},
		`cd && a`:                                       {"cd", "a @/h"},
		`if cd s; then a; fi; b`:                        {"cd|s", "a @/w/s", "b @/w @/w/s"},
		`builtin cd s && a`:                             {"builtin|cd|s", "cd|s", "a @/w/s"},
		`alias ll='ls -l'`:                              {"alias|ll=ls -l", "ls|-l"},
		`[ -f x ] && test y`:                            {"[|-f|x|]", "test|y"},
		`let x=1`:                                       nil,
	} {
		s, err := Split(text, "/w", "/h")
		if want == nil && err != nil {
			continue
		}
		if err != nil || !slices.Equal(show(s), want) {
			var got any = err
			if err == nil {
				got = fmt.Sprintf("%q", show(s))
			}
			t.Errorf("%s\n got %v\nwant %q", text, got, want)
		}
	}
}

// What cannot be read is refused, with words that say why.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		`$X -rf /`:                    "not literal",
		`"$X"`:                        "not literal",
		`$(a) b`:                      "not literal",
		`r? x`:                        "not literal",
		`{rm,-rf,x}`:                  "not literal",
		`{"rm",x}`:                    "not literal",
		`r$()m x`:                     "not literal",
		`$'\x72m' x`:                  "not literal",
		`''`:                          "not literal",
		`if a; then`:                  "cannot be read as bash",
		`a "b`:                        "cannot be read as bash",
		`a )`:                         "cannot be read as bash",
		"a \x00 b":                    "NUL",
		`a > $F`:                      "path is not literal",
		`a > "$(b)"`:                  "path is not literal",
		`a > *`:                       "path is not literal",
		`a >& $F`:                     "path is not literal",
		`a < ~other/x`:                "path is not literal",
		`exec 3<>/dev/tcp/x`:          "no host and port",
		`cd $X && a`:                  "not known",
		`cd - && a`:                   "not known",
		`popd`:                        "not known",
		`cd -P ..`:                    "behind links",
		`set -eP; cd ..`:              "behind links",
		`f() { a; }; cd x; f`:         "cannot be followed",
		`for i in 1 2; do cd x; done`: "cannot be followed",
		`trap 'a > f' EXIT; cd /x`:    "cannot be followed",
		`eval $X`:                     "not literal",
		`eval "a" "$X"`:               "not literal",
		`bash -c "$X"`:                "not literal",
		`bash $X`:                     "not literal",
		`bash --rcfile x`:             "not known",
		`bash -c 'if'`:                "cannot be read as bash",
		"bash <<E\nrm $X\nE":          "not literal",
		`sh <<< "$X"`:                 "not literal",
		`trap "$X" EXIT`:              "not literal",
		`alias a="$X"`:                "not literal",
		`env -S "rm x"`:               "not known here",
		`env -C / rm x`:               "not known here",
		`sudo -i rm`:                  "not known here",
		`timeout $T rm x`:             "not literal",
		`timeout --sig 9 5 rm`:        "not known here",
		`xargs $X`:                    "not literal",
		`sudo $X`:                     "not literal",
		`find . -exec $X \;`:          "not literal",
		`find . -exec \;`:             "no command",
		`echo ${x@P}`:                 "may run",
		`printf -v 'a[$(rm x)]' 1`:    "may be run",
		`[[ -v 'a[$(rm x)]' ]]`:       "would be run",
		`echo $((1 + $(a)))`:          "would be run",
		`(( $(a) > 1 ))`:              "would be run",
		"a\r\nb":                      "CR",
		`declare 'a[$(rm x)]=1'`:      "may be run",
		strings.Repeat("(", 9) + "a" + strings.Repeat(")", 9) + " > $x": "not literal",
		`eval eval eval eval eval eval eval eval eval a`:                "deep",
		strings.Repeat("a;", maxItems+2):                                "more than",
		strings.Repeat("a", MaxText+1):                                  "more than",
	} {
		s, err := Split(text, "/w", "/h")
		if err == nil || !strings.Contains(err.Error(), want) {
			if err == nil {
				t.Errorf("%.80s was read: %q; want an error with %q", text, show(s), want)
			} else {
				t.Errorf("%.80s: %v; want %q", text, err, want)
			}
		}
	}
	if _, err := Split("a > ~/x", "/w", ""); err == nil {
		t.Error("a tilde without a home was read")
	}
	if _, err := Split("a", "w", "/h"); err == nil {
		t.Error("a relative directory was taken")
	}
}

// Every name that stands alone in a script that bash could run as a command is
// among the commands that are read, or the script is refused.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"a && b", "x=$(a) b", "if a; then b; fi", "cat <<E\n$(a)\nE", "f() { a; }", "a | xargs b", "sh -c 'a; b'", "[[ a == $(b) ]]",
		"for i in $(a); do b; done", "env -i A=1 b", "a >(b) <(c)", "case a in b) c;; esac", "find . -exec a {} +", "echo `a`", "a 3<>/dev/tcp/h/1", "cd x && a > y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Split(text, "/w", "/h")
		if err != nil {
			return
		}
		again, err := Split("{ "+text+"\n}", "/w", "/h")
		if err == nil && len(again.Commands) != len(s.Commands) {
			t.Fatalf("in a block it has %d commands, alone %d", len(again.Commands), len(s.Commands))
		}
		for _, c := range s.Commands {
			if len(c.Args) == 0 || c.Args[0] == "" || len(c.Dirs) == 0 {
				t.Fatalf("%+v", c)
			}
			for _, d := range c.Dirs {
				if !strings.HasPrefix(d, "/") {
					t.Fatalf("directory %q", d)
				}
			}
		}
		for _, f := range s.Files {
			if !strings.HasPrefix(f.Path, "/") {
				t.Fatalf("file %q", f.Path)
			}
		}
	})
}
