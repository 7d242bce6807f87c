package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// raw is a client of the server that is no packhold.
func (s *s3Server) raw(t *testing.T) *minio.Client {
	t.Helper()
	c, err := minio.New(s.addr, &minio.Options{Creds: credentials.NewStaticV4(s3Key, s3Secret, ""), MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// objects lists a bucket with all versions.
func objects(t *testing.T, c *minio.Client, bucket, prefix string) (list []minio.ObjectInfo) {
	t.Helper()
	for o := range c.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		list = append(list, o)
	}
	return list
}

// shorten ends locks of governance mode early, as an administrator may.
func shorten(t *testing.T, c *minio.Client, bucket, prefix string, until time.Time) {
	t.Helper()
	list := objects(t, c, bucket, prefix)
	if len(list) == 0 {
		t.Fatalf("%s holds nothing below %s", bucket, prefix)
	}
	for _, o := range list {
		mode := minio.Governance
		if err := c.PutObjectRetention(t.Context(), bucket, o.Key, minio.PutObjectRetentionOptions{GovernanceBypass: true, Mode: &mode, RetainUntilDate: &until, VersionID: o.VersionID}); err != nil {
			t.Fatalf("%s: %v", o.Key, err)
		}
	}
}

// status is what lock status --json says in its last line.
func status(t *testing.T, r remote, code int) (s struct {
	Level string
	Open  int
	Due   bool
}) {
	t.Helper()
	found := false
	for line := range strings.Lines(r.exits(t, code, "lock", "status", "--json").stdout) {
		if strings.Contains(line, `"message_type":"lock_status"`) {
			found = true
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !found {
		t.Fatal("there is no status")
	}
	return s
}

// TestLockS3: what packhold stores in a bucket with object lock, nobody deletes before its time, packhold or not.
func TestLockS3(t *testing.T) {
	s := startS3(t)
	c := s.raw(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "one"), 1, 5<<20); err != nil {
		t.Fatal(err)
	}

	// A bucket that has no object lock is refused, and nothing is left in it.
	if err := c.MakeBucket(t.Context(), "plain", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	if out := s.remote(t, "plain").exits(t, 4, "init", "--immutable", "30d").stderr; !strings.Contains(out, "no object lock") || !strings.Contains(out, "--object-lock-enabled-for-bucket") {
		t.Errorf("it says\n%s", out)
	}
	if left := objects(t, c, "plain", ""); len(left) > 0 {
		t.Errorf("%d objects are left", len(left))
	}

	r := s.remote(t, "locked/here")
	if out := r.exits(t, 0, "init", "--immutable", "30d", "--immutable", "1y=1y", "--pack-size", "2M").stderr; !strings.Contains(out, "write-once for 30 days, by object lock, governance mode") {
		t.Errorf("it says\n%s", out)
	}
	r.exits(t, 0, "backup", "--quiet", "--source", source)
	r.exits(t, 0, "backup", "--quiet", "--source", source, "--retention", "1y")
	if got := status(t, r, 0); got.Level != "governance" || got.Open != 0 || got.Due {
		t.Errorf("%+v", got)
	}
	locked := 0
	for _, o := range objects(t, c, "locked", "here/") {
		if strings.Contains(o.Key, "/tmp/") {
			continue
		}
		err := c.RemoveObject(t.Context(), "locked", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		if code := minio.ToErrorResponse(err).Code; code != "AccessDenied" {
			t.Errorf("another program removes %s: %v", o.Key, err)
		}
		locked++
	}
	if locked < 15 {
		t.Errorf("%d objects are locked", locked)
	}
	packs := objects(t, c, "locked", "here/packs/")

	// What ends early is told and extended, and a backup extends what it leans on.
	soon := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	shorten(t, c, "locked", "here/packs/", soon)
	if got := status(t, r, 20); got.Open != 0 || !got.Due {
		t.Errorf("%+v", got)
	}
	r.exits(t, 0, "lock", "extend")
	if got := status(t, r, 0); got.Due {
		t.Errorf("%+v", got)
	}
	shorten(t, c, "locked", "here/packs/", soon)
	another := remote{home(t.TempDir()), r.env} // one that knows nothing
	another.exits(t, 0, "host", "enroll")
	another.exits(t, 0, "backup", "--quiet", "--source", source)
	for _, o := range packs {
		info, err := c.StatObject(t.Context(), "locked", o.Key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil || until.Before(time.Now().Add(29*24*time.Hour)) {
			t.Errorf("a snapshot leans on %s, which is kept until %v, %v", o.Key, until, err)
		}
	}

	// A key slot is removed when its time is over, not before.
	add := r
	add.env = append(add.env, "PACKHOLD_NEW_PASSPHRASE=another long passphrase")
	add.exits(t, 0, "key", "add", "--quiet", "--label", "deputy")
	slots := r.exits(t, 0, "key", "list", "--json").stdout
	var second struct{ ID string }
	for line := range strings.Lines(slots) {
		if strings.Contains(line, `"label":"deputy"`) {
			if err := json.Unmarshal([]byte(line), &second); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out := r.exits(t, 16, "key", "remove", second.ID).stderr; !strings.Contains(out, "immutable until 20") {
		t.Errorf("it says\n%s", out)
	}
	soon = time.Now().Add(2 * time.Second).UTC().Truncate(time.Second)
	for _, prefix := range []string{"here/keys/" + second.ID, "here/replica/1/keys/" + second.ID, "here/replica/2/keys/" + second.ID, "here/bundles/"} {
		shorten(t, c, "locked", prefix, soon)
	}
	time.Sleep(time.Until(soon) + time.Second)
	r.exits(t, 0, "key", "remove", second.ID)
	r.exits(t, 0, "lock", "extend") // the other slot's bundle lost its lock, too
	for _, o := range objects(t, c, "locked", "here/") {
		if strings.Contains(o.Key, second.ID) {
			t.Errorf("%s is left", o.Key)
		}
	}
	// It can hide packs behind a delete marker. They are there once that is gone.
	for _, o := range packs {
		if err := c.RemoveObject(t.Context(), "locked", o.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.exits(t, 21, "verify", "--quiet", "--read-data")
	for _, o := range objects(t, c, "locked", "here/packs/") {
		if o.IsDeleteMarker {
			if err := c.RemoveObject(t.Context(), "locked", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.exits(t, 0, "verify", "--quiet", "--read-data")

	dst := filepath.Join(t.TempDir(), "restored")
	r.exits(t, 0, "restore", "--quiet", "--destination", dst)
	sameTree(t, mustDescribe(t, source), dst)
}

// TestLockCompliance: compliance mode has to be confirmed, and then nobody ends it.
func TestLockCompliance(t *testing.T) {
	s := startS3(t)
	c := s.raw(t)
	r := s.remote(t, "strict/here")
	if out := r.exits(t, 4, "init", "--immutable", "30d", "--immutable-mode", "compliance").stderr; !strings.Contains(out, "--yes-compliance strict") {
		t.Errorf("it says\n%s", out)
	}
	r.exits(t, 4, "init", "--immutable", "30d", "--immutable-mode", "compliance", "--yes-compliance", "strict/here")
	if exists, err := c.BucketExists(t.Context(), "strict"); err != nil || exists {
		t.Errorf("a bucket is made before that is confirmed: %v", err)
	}
	r.exits(t, 0, "init", "--immutable", "30d", "--immutable-mode", "compliance", "--yes-compliance", "strict")
	if got := status(t, r, 0); got.Level != "compliance" || got.Open != 0 {
		t.Errorf("%+v", got)
	}
	for _, o := range objects(t, c, "strict", "here/") {
		if strings.Contains(o.Key, "/tmp/") {
			continue
		}
		if err := c.RemoveObject(t.Context(), "strict", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID, GovernanceBypass: true}); minio.ToErrorResponse(err).Code != "AccessDenied" {
			t.Errorf("an administrator removes %s: %v", o.Key, err)
		}
		mode, soon := minio.Governance, time.Now().Add(time.Hour)
		if err := c.PutObjectRetention(t.Context(), "strict", o.Key, minio.PutObjectRetentionOptions{GovernanceBypass: true, Mode: &mode, RetainUntilDate: &soon}); err == nil {
			t.Errorf("an administrator ends the lock of %s", o.Key)
		}
	}
}

// TestLockReplica: the copy of a write-once repository is write-once too, where its place can, and says where it cannot.
func TestLockReplica(t *testing.T) {
	s := startS3(t)
	dir := t.TempDir()
	t.Cleanup(func() { unlockTree(dir) })
	r := s.remote(t, "")
	r.env = append(r.env[:2], "PACKHOLD_REPOSITORY="+filepath.Join(dir, "repository"))
	source := filepath.Join(t.TempDir(), "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeRandom(filepath.Join(source, "one"), 1, 3<<20); err != nil {
		t.Fatal(err)
	}
	r.exits(t, 0, "init", "--quiet", "--immutable", "30d")
	r.exits(t, 0, "backup", "--quiet", "--source", source)
	r.exits(t, 0, "host", "enroll", "--replicator")
	if err := s.raw(t).MakeBucket(t.Context(), "plain", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	at := func(bucket string) remote {
		there := r
		there.env = append(r.env[:2:2], "PACKHOLD_REPOSITORY=s3:http://"+s.addr+"/"+bucket+"/copy")
		return there
	}
	for range 2 {
		if out := r.exits(t, 0, "replicate", "--to", "s3:http://"+s.addr+"/kept/copy").stderr; strings.Contains(out, "cannot lock") {
			t.Errorf("it says\n%s", out)
		}
		if got := status(t, at("kept"), 0); got.Level != "governance" || got.Open != 0 || got.Due {
			t.Errorf("%+v", got)
		}
		if out := r.exits(t, 0, "replicate", "--to", "s3:http://"+s.addr+"/plain/copy").stderr; !strings.Contains(out, "cannot lock files") {
			t.Errorf("it says\n%s", out)
		}
		if got := status(t, at("plain"), 20); got.Level != "none" || !got.Due {
			t.Errorf("%+v", got)
		}
		r.exits(t, 0, "backup", "--quiet", "--source", source, "--type", "full")
	}
	// A backup into the copy that cannot be locked would promise what is not so.
	if out := at("plain").exits(t, 4, "backup", "--quiet", "--source", source).stderr; !strings.Contains(out, "lock.unsupported") || !strings.Contains(out, "cannot lock files") {
		t.Errorf("it says\n%s", out)
	}
	at("kept").exits(t, 0, "verify", "--quiet", "--read-data")
	if out := at("plain").exits(t, 0, "verify", "--quiet", "--read-data").stderr; !strings.Contains(out, "nothing here is locked") {
		t.Errorf("it says\n%s", out)
	}
}
