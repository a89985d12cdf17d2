//go:build clients

package tools

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cgi"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/websocket"

	"outcall/integration/harness"
	"outcall/integration/world"
)

// serve gives the small internet what the tools ask for.
func serve(t *testing.T, b *harness.Bed) {
	t.Helper()
	for _, n := range []string{"db.allowed.test", "cache.allowed.test"} {
		b.DNS.Set(n, world.Records{Addrs: []netip.Addr{b.Addr4(), b.Addr6()}, TTL: 60})
	}
	for name, text := range programs {
		b.Write("tools/"+name, text)
	}
	serveGit(t, b)
	serveNPM(b)
	servePyPI(b)
	serveGo(b)
	serveAPT(t, b)
	serveMaven(b)
	servePage(b)
	b.Origins.Handle("/socket/", websocket.Server{Handler: func(c *websocket.Conn) { io.Copy(c, c) }}) // whatever the Origin
	servePostgres(t, b)
	b.Serve(t, b.Program("redis-server", "--port", "6379", "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--dir", b.Home))
}

// programs are what the interpreters run.
var programs = map[string]string{
	"fetch.py": `import asyncio, os, ssl, urllib.request, requests, aiohttp
web, ca = "https://" + os.environ["WEB"], os.environ["CA"]
ctx = ssl.create_default_context(cafile=ca)
want = lambda what, text: print(what if text == "origin %s /%s\n" % (os.environ["WEB"], what) else repr(text), end=" ")
want("urllib", urllib.request.urlopen(web + "/urllib", context=ctx).read().decode())
want("requests", requests.get(web + "/requests", verify=ca).text)
async def main():
    async with aiohttp.ClientSession(trust_env=True) as s:
        async with s.get(web + "/aiohttp", ssl=ctx) as r:
            want("aiohttp", await r.text())
asyncio.run(main())
`,
	"fetch.mjs": `import https from "node:https";
const web = process.env.WEB, out = [];
const text = await (await fetch("https://" + web + "/fetch")).text();
out.push(text === "origin " + web + " /fetch\n" ? "fetch" : text);
await new Promise((done, fail) => https.get("https://" + web + "/https", r => { r.resume(); r.on("end", () => { out.push("https"); done(); }); }).on("error", fail));
await new Promise((done, fail) => {
  const ws = new WebSocket("wss://" + web + "/socket/");
  ws.onopen = () => ws.send("hello");
  ws.onmessage = m => { if (m.data === "hello") out.push("websocket"); ws.close(); done(); };
  ws.onerror = e => fail(new Error("websocket: " + e.message));
});
console.log(out.join(" "));
`,
	"Fetch.java": `import java.net.*;
import java.net.http.*;
class Fetch {
  public static void main(String[] args) throws Exception {
    InetAddress once = InetAddress.getByName(URI.create(args[0]).getHost()); // kept for the life of the program
    try (Socket s = new Socket(once, 443)) { s.getRemoteSocketAddress(); }
    HttpClient c = HttpClient.newHttpClient();
    for (int i = 0; i < 3; i++) {
      var r = c.send(HttpRequest.newBuilder(URI.create(args[0])).build(), HttpResponse.BodyHandlers.ofString());
      System.out.println(r.statusCode() + " " + r.body());
    }
  }
}
`,
}

func run(t *testing.T, b *harness.Bed, dir, script string) {
	t.Helper()
	cmd := b.Program("sh", "-ec", script)
	cmd.Dir = dir
	if r := b.Start(cmd).Wait(); r.Code != 0 {
		t.Fatalf("%s: %d\n%s%s", script, r.Code, r.Stdout, r.Stderr)
	}
}

// serveGit serves two repositories by git's own server half: one to clone and
// push to, and a cargo index.
func serveGit(t *testing.T, b *harness.Bed) {
	t.Helper()
	dir := filepath.Join(b.Home, "srv")
	crate := tarball(map[string]string{"tiny-1.0.0/src/lib.rs": "// tiny crate\n",
		"tiny-1.0.0/Cargo.toml": "[package]\nname = \"tiny\"\nversion = \"1.0.0\"\n"})
	sum := sha256.Sum256(crate)
	b.Write("srv/repo/file", "content of the repository\n")
	b.Write("srv/index/config.json", `{"dl":"https://`+web+`/crates/{crate}-{version}"}`)
	b.Write("srv/index/ti/ny/tiny", `{"name":"tiny","vers":"1.0.0","deps":[],"cksum":"`+hex.EncodeToString(sum[:])+`","features":{},"yanked":false}`+"\n")
	run(t, b, dir, `for r in repo index; do cd $r; git init -q; git add .; git -c user.name=a -c user.email=a@b commit -qm first; cd ..;
		git clone -q --bare $r $r.git; git -C $r.git config http.receivepack true; touch $r.git/git-daemon-export-ok; done`)
	b.Origins.Handle("/git/", &cgi.Handler{Path: "/usr/lib/git-core/git-http-backend", Dir: dir,
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + b.Home}})
	b.Origins.Handle("/crates/", bodies{"/tiny-1.0.0": crate})
}

// bodies serves fixed bodies by path.
type bodies map[string][]byte

func (m bodies) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, ok := m[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/") {
		w.Header().Set("Content-Type", "text/html")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body)
}

func tarball(files map[string]string) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for name, text := range files {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))})
		w.Write([]byte(text))
	}
	w.Close()
	z.Close()
	return buf.Bytes()
}

func zipped(files [][2]string) []byte {
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, f := range files {
		w, _ := z.Create(f[0])
		w.Write([]byte(f[1]))
	}
	z.Close()
	return buf.Bytes()
}

func serveNPM(b *harness.Bed) {
	tgz := tarball(map[string]string{"package/package.json": `{"name":"tiny-package","version":"1.0.0","main":"i.js"}`,
		"package/i.js": `module.exports = "tiny package of npm"`})
	sum := sha512.Sum512(tgz)
	meta, _ := json.Marshal(map[string]any{"name": "tiny-package", "dist-tags": map[string]string{"latest": "1.0.0"},
		"versions": map[string]any{"1.0.0": map[string]any{"name": "tiny-package", "version": "1.0.0", "main": "i.js",
			"dist": map[string]string{"tarball": "https://" + web + "/npm/tiny-package-1.0.0.tgz",
				"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:])}}}})
	b.Origins.Handle("/npm/", bodies{"/tiny-package": meta, "/tiny-package-1.0.0.tgz": tgz})
}

func servePyPI(b *harness.Bed) {
	wheel := zipped([][2]string{
		{"tinypackage.py", "print('tiny package of pip')\n"},
		{"tinypackage-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypackage\nVersion: 1.0\n"},
		{"tinypackage-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"tinypackage-1.0.dist-info/RECORD", "tinypackage.py,,\ntinypackage-1.0.dist-info/METADATA,,\ntinypackage-1.0.dist-info/WHEEL,,\ntinypackage-1.0.dist-info/RECORD,,\n"},
	})
	const file = "tinypackage-1.0-py3-none-any.whl"
	page := []byte(`<!DOCTYPE html><html><body><a href="/pypi/` + file + `">` + file + `</a></body></html>`)
	b.Origins.Handle("/pypi/", bodies{"/simple/tinypackage/": page, "/" + file: wheel})
}

func serveGo(b *harness.Bed) {
	const mod = "module allowed.test/tiny\n"
	b.Origins.Handle("/go/", bodies{
		"/allowed.test/tiny/@v/list":        []byte("v1.0.0\n"),
		"/allowed.test/tiny/@v/v1.0.0.info": []byte(`{"Version":"v1.0.0","Time":"2020-01-01T00:00:00Z"}`),
		"/allowed.test/tiny/@v/v1.0.0.mod":  []byte(mod),
		"/allowed.test/tiny/@v/v1.0.0.zip": zipped([][2]string{
			{"allowed.test/tiny@v1.0.0/go.mod", mod}, {"allowed.test/tiny@v1.0.0/tiny.go", "package tiny\n"}}),
	})
}

// serveMaven serves a parent POM and a jar that a build loads as an extension:
// what mvn fetches by itself, without plugins of a public repository.
func serveMaven(b *harness.Bed) {
	pom := func(group, artifact, version, packaging string) []byte {
		return []byte("<project><modelVersion>4.0.0</modelVersion><groupId>" + group + "</groupId><artifactId>" + artifact +
			"</artifactId><version>" + version + "</version><packaging>" + packaging + "</packaging></project>\n")
	}
	jar := zipped([][2]string{{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n"}, {"tiny.txt", "tiny jar of maven\n"}})
	files := bodies{
		"/test/allowed/tiny-parent/1.0/tiny-parent-1.0.pom": pom("test.allowed", "tiny-parent", "1.0", "pom"),
		"/test/allowed/tiny-jar/1.0/tiny-jar-1.0.pom":       pom("test.allowed", "tiny-jar", "1.0", "jar"),
		"/test/allowed/tiny-jar/1.0/tiny-jar-1.0.jar":       jar,
		// mvn wants this one beside every extension.
		"/org/codehaus/plexus/plexus-utils/1.1/plexus-utils-1.1.pom": pom("org.codehaus.plexus", "plexus-utils", "1.1", "jar"),
		"/org/codehaus/plexus/plexus-utils/1.1/plexus-utils-1.1.jar": jar,
	}
	for path, body := range maps.Clone(files) {
		files[path+".sha1"] = fmt.Appendf(nil, "%x", sha1.Sum(body))
	}
	b.Origins.Handle("/maven/", files)
	repo := "https://" + web + "/maven/"
	b.Write("tools/settings.xml", "<settings><mirrors><mirror><id>world</id><mirrorOf>*</mirrorOf><url>"+repo+"</url></mirror></mirrors></settings>\n")
	b.Write("tools/pom.xml", `<project><modelVersion>4.0.0</modelVersion>
<parent><groupId>test.allowed</groupId><artifactId>tiny-parent</artifactId><version>1.0</version><relativePath/></parent>
<artifactId>a</artifactId><packaging>pom</packaging>
<build><extensions><extension><groupId>test.allowed</groupId><artifactId>tiny-jar</artifactId><version>1.0</version></extension></extensions></build></project>
`)
}

func serveAPT(t *testing.T, b *harness.Bed) {
	t.Helper()
	b.Write("deb/tree/DEBIAN/control", "Package: tiny-deb\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b>\nDescription: tiny\n")
	run(t, b, filepath.Join(b.Home, "deb"), "chmod 755 tree tree/DEBIAN; dpkg-deb --root-owner-group -b tree tiny-deb_1.0_all.deb")
	deb, err := os.ReadFile(filepath.Join(b.Home, "deb/tiny-deb_1.0_all.deb"))
	if err != nil {
		t.Fatal(err)
	}
	packages := fmt.Sprintf("Package: tiny-deb\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b>\nFilename: ./tiny-deb_1.0_all.deb\nSize: %d\nSHA256: %x\nDescription: tiny\n\n",
		len(deb), sha256.Sum256(deb))
	b.Origins.Handle("/apt/", bodies{"/Packages": []byte(packages), "/./Packages": []byte(packages),
		"/tiny-deb_1.0_all.deb": deb, "/./tiny-deb_1.0_all.deb": deb})
}

func servePage(b *harness.Bed) {
	page := `<!DOCTYPE html><html><body><p id="p">loading</p><script>
fetch("/from-page").then(r => r.text()).then(t => document.getElementById("p").textContent = "fetched: " + t)
</script></body></html>`
	b.Origins.Handle("/page/", bodies{"/": []byte(page)})
}

// servePostgres starts Debian's PostgreSQL with a fresh cluster.
func servePostgres(t *testing.T, b *harness.Bed) {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Fatal("there is no PostgreSQL server: install postgresql (Debian; make clients does as root)")
	}
	bin, data := filepath.Dir(found[len(found)-1]), filepath.Join(b.Home, "pg")
	run(t, b, b.Home, bin+"/initdb -D pg -U tester -A trust --no-sync >/dev/null; echo 'host all all all trust' >> pg/pg_hba.conf")
	b.Serve(t, b.Program(bin+"/postgres", "-D", data, "-h", "*", "-p", "5432", "-k", data, "-c", "fsync=off"))
}
