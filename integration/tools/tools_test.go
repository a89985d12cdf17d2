//go:build clients

package tools

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"outcall/integration/harness"
	"outcall/integration/world"
)

func TestMain(m *testing.M) { world.Main(m, harness.Build, findGo) }

// findGo notes where the go program is: the world has an ordinary login's PATH.
func findGo(dir string) error {
	path, err := exec.LookPath("go")
	if err != nil {
		return err
	}
	return os.WriteFile(dir+"/go.path", []byte(path), 0o644)
}

// A tool is one row of the README's table.
type tool struct {
	name, does string
	needs      string // the Debian package
	program    string // that must be there
	allow      string // besides which nothing is reached
	script     string // for sh -e, in a fresh directory
	want       string // in its standard output
	agent      string // whose request for /from-page an origin must get
}

const web = "api.allowed.test"

var tools = []tool{
	{"curl", "HTTP/1.0, 1.1 and 2", "curl", "curl", web,
		`curl -sS --http1.0 http://$WEB/1.0; curl -sS --http1.1 https://$WEB/1.1; curl -sS --http2 https://$WEB/2; curl -sS --http2 -o /dev/null -w "version %{http_version}\n" https://$WEB/v; curl -sS --http2 -d a=b https://$WEB/post`,
		"origin api.allowed.test /1.0\norigin api.allowed.test /1.1\norigin api.allowed.test /2\nversion 2\norigin api.allowed.test /post\n", ""},
	{"wget", "HTTPS and HTTP", "wget", "wget", web, `wget -qO- https://$WEB/a --ca-certificate=$CA; wget -qO- http://$WEB/b`, "origin api.allowed.test /b", ""},
	{"git", "clone and push over HTTPS", "git", "git", web,
		`export GIT_SSL_CAINFO=$CA; git clone -q https://$WEB/git/repo.git r; cd r; cat file; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; git push -qf origin HEAD:refs/heads/new; git ls-remote -q origin new | cut -f2`,
		"content of the repository\nrefs/heads/new", ""},
	{"npm", "install from a registry", "npm", "npm", web,
		`export npm_config_cafile=$CA; npm install --no-audit --no-fund --no-update-notifier --registry https://$WEB/npm/ tiny-package >&2; node -e 'console.log(require("tiny-package"))'`, "tiny package of npm", ""},
	{"pip", "install from an index", "python3-pip", "/usr/bin/pip3", web,
		`/usr/bin/pip3 install -q --disable-pip-version-check --no-cache-dir --target t --index-url https://$WEB/pypi/simple/ --cert $CA tinypackage >&2; PYTHONPATH=t /usr/bin/python3 -c 'import tinypackage'`, "tiny package of pip", ""},
	{"cargo", "fetch a crate by its index", "cargo", "/usr/bin/cargo", web,
		`mkdir src; echo 'fn main() {}' > src/main.rs; printf '[package]\nname="a"\nversion="0.1.0"\n[dependencies]\ntiny={version="1",registry="world"}\n' > Cargo.toml; ` +
			`CARGO_REGISTRIES_WORLD_INDEX=https://$WEB/git/index.git CARGO_HTTP_CAINFO=$CA GIT_SSL_CAINFO=$CA /usr/bin/cargo fetch >&2; find $HOME/.cargo/registry/src -name lib.rs | xargs cat`, "tiny crate", ""},
	{"go", "download a module", "golang", "sh", web,
		`go=$(cat /home/.world/go.path); export GOPROXY=https://$WEB/go GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-modcacherw GOPATH=$PWD/gopath; $go mod init a 2>&1; $go get allowed.test/tiny@v1.0.0 2>&1; cat gopath/pkg/mod/allowed.test/tiny@v1.0.0/tiny.go`, "package tiny", ""},
	{"apt", "update and download", "apt", "apt-get", web,
		`mkdir -p l/partial c/partial; echo "deb [trusted=yes] http://$WEB/apt ./" > s.list; o="-o Dir::Etc::sourcelist=$PWD/s.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$PWD/l -o Dir::Cache=$PWD/c -o APT::Sandbox::User= -o Debug::NoLocking=1"; ` +
			`apt-get $o -qq update >&2; apt-get $o -qq download tiny-deb >&2; dpkg-deb -f tiny-deb*.deb Package`, "tiny-deb", ""},
	{"python3", "urllib, requests and aiohttp", "python3-requests python3-aiohttp", "/usr/bin/python3", web, `/usr/bin/python3 $TOOLS/fetch.py`, "urllib requests aiohttp", ""},
	{"node", "fetch, https and a WebSocket", "nodejs", "node", web, `node $WS $TOOLS/fetch.mjs`, "fetch https websocket", ""},
	{"java", "HttpClient and a Socket that looks up once", "openjdk-17-jdk-headless", "java", web,
		`keytool -importcert -noprompt -alias w -file $CA -keystore k.jks -storepass changeit >/dev/null 2>&1; java -Djavax.net.ssl.trustStore=k.jks -Djavax.net.ssl.trustStorePassword=changeit $TOOLS/Fetch.java https://$WEB/java`, "200 origin api.allowed.test /java", ""},
	{"mvn", "a parent POM and a jar from a repository", "maven", "mvn", web,
		`keytool -importcert -noprompt -alias w -file $CA -keystore k.jks -storepass changeit >/dev/null 2>&1; cp $TOOLS/pom.xml .; ` +
			`MAVEN_OPTS="-Djavax.net.ssl.trustStore=$PWD/k.jks -Djavax.net.ssl.trustStorePassword=changeit" mvn -B -q -s $TOOLS/settings.xml -Dmaven.repo.local=$PWD/m2 validate >&2; jar xf m2/test/allowed/tiny-jar/1.0/tiny-jar-1.0.jar; cat tiny.txt`, "tiny jar of maven", ""},
	{"ssh", "a server that speaks first, by name", "openssh-client", "ssh-keyscan", "git.allowed.test:22", `ssh-keyscan -T 5 git.allowed.test 2>&1 || true`, "git.allowed.test:22 SSH-2.0-world", ""},
	{"psql", "a query to PostgreSQL", "postgresql", "psql", "db.allowed.test:5432",
		`PGSSLMODE=disable psql -h db.allowed.test -U tester -d postgres -Atc "select 'rows: ' || count(*) from generate_series(1,100000)"`, "rows: 100000", ""},
	{"redis-cli", "set and get", "redis-server redis-tools", "redis-cli", "cache.allowed.test:6379",
		`redis-cli -h cache.allowed.test set k 'value of redis'; redis-cli -h cache.allowed.test get k`, "value of redis", ""},
	{"chromium", "a page with a script", "chromium", "chromium", web,
		`chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=$PWD/c --ignore-certificate-errors --virtual-time-budget=10000 --dump-dom https://$WEB/page/ 2>/dev/null`, "fetched: origin api.allowed.test /from-page", ""},
	{name: "firefox", does: "a page with a script", needs: "firefox-esr libnss3-tools", program: "firefox-esr", allow: web,
		script: `mkdir p; certutil -N -d sql:p --empty-password; certutil -A -d sql:p -n world -t C,, -i $CA; ` +
			`timeout 100 firefox-esr --headless --no-remote --profile $PWD/p --screenshot $PWD/s.png https://$WEB/page/ >&2; head -c 4 s.png | tail -c 3`,
		want: "PNG", agent: "Firefox"},
}

// TestTools runs each tool both ways, and holds the README's table to that.
func TestTools(t *testing.T) {
	b := harness.New(t)
	serve(t, b)
	var table strings.Builder
	table.WriteString("| tool | what it does in the test | with the proxy variables | without |\n|---|---|---|---|\n")
	for _, tt := range tools {
		row := fmt.Sprintf("| %s | %s |", tt.name, tt.does)
		for _, flags := range [][]string{nil, {"--no-proxy"}} {
			ok := t.Run(tt.name+strings.Join(flags, ""), func(t *testing.T) { try(t, b, tt, flags) })
			row += map[bool]string{true: " works |", false: " FAILS |"}[ok]
		}
		table.WriteString(row + "\n")
	}
	compare(t, table.String())
}

// A browser comes by HTTP/3 where it expects it.
func TestChromiumHTTP3(t *testing.T) {
	b := harness.New(t)
	dir, err := os.MkdirTemp(b.Work, "tool-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r := b.Sandbox(append(harness.Allow(web), "--no-proxy", "--workdir", dir), "sh", "-ec",
		`key=$(openssl s_client -connect `+web+`:443 -servername `+web+` </dev/null 2>/dev/null | openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64); `+
			`chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=$PWD/c --ignore-certificate-errors-spki-list=$key `+
			`--enable-quic --origin-to-force-quic-on=`+web+`:443 --virtual-time-budget=10000 --dump-dom https://`+web+`/http3`)
	if r.Code != 0 || !strings.Contains(r.Stdout, "origin "+web+" /http3") {
		t.Errorf("code %d\n%s\n%s\naudit: %v", r.Code, r.Stdout, r.Stderr, b.Denials(t, r.Name, nil))
	}
	n := 0
	for _, q := range b.Origins.Requests() {
		if q.URI == "/http3" && q.Proto == "HTTP/3.0" && q.SNI == web {
			n++
		}
	}
	if n == 0 {
		t.Errorf("no request over HTTP/3 arrived: %+v", b.Origins.Requests())
	}
}

// try runs one tool in a directory of its own.
func try(t *testing.T, b *harness.Bed, tt tool, flags []string) {
	if _, err := exec.LookPath(tt.program); err != nil {
		t.Fatalf("%v: install %s (Debian; make clients does as root)", err, tt.needs)
	}
	dir, err := os.MkdirTemp(b.Work, "tool-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	args := append(append(harness.Allow(strings.Fields(tt.allow)...), flags...), "--workdir", dir,
		"-e", "WEB="+web, "-e", "CA="+b.CA.File, "-e", "TOOLS="+b.Home+"/tools", "-e", "WS="+nodeFlag())
	before := len(b.Origins.Requests())
	r := b.Sandbox(args, "sh", "-ec", tt.script)
	asked := func(q world.Request) bool {
		return q.URI == "/from-page" && strings.Contains(q.Header.Get("User-Agent"), tt.agent)
	}
	if tt.agent != "" && !slices.ContainsFunc(b.Origins.Requests()[before:], asked) {
		t.Errorf("no request of %s came from the page: %v", tt.agent, b.Origins.Requests()[before:])
	}
	if r.Code != 0 || !strings.Contains(r.Stdout, tt.want) {
		t.Errorf("code %d\n%s\n%s\naudit: %v", r.Code, r.Stdout, r.Stderr, b.Denials(t, r.Name, nil))
	}
}

// nodeFlag is what turns the WebSocket of an older node on.
func nodeFlag() string {
	if exec.Command("node", "-e", "new WebSocket('ws://127.0.0.1:9').onerror = () => {}").Run() == nil {
		return "--no-warnings"
	}
	return "--experimental-websocket"
}

const begin, end = "<!-- tools: written by a test -->\n", "<!-- /tools -->"

func compare(t *testing.T, table string) {
	const path = "../../README.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), begin)
	old, _, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the README has no place for the table of tools")
	}
	if old == table {
		return
	}
	t.Errorf("the README's table is\n%s\nand should be\n%s", old, table)
}
