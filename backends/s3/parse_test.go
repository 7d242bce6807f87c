package s3

import (
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A page that is taken has only keys with the prefix, sizes and dates; written out again it reads the same.
func FuzzPage(f *testing.F) {
	const one = `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/</Prefix>` +
		`<KeyCount>1</KeyCount><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>` +
		`<Contents><Key>p%2Fa+b</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><Size>3</Size></Contents></ListBucketResult>`
	f.Add([]byte(one), "p/")
	f.Add([]byte(strings.ReplaceAll(one, "%2F", "/")), "")
	f.Add([]byte(`<Error><Code>NoSuchBucket</Code></Error>`), "")
	f.Add([]byte(`<ListBucketResult/>`), "")
	f.Fuzz(func(t *testing.T, text []byte, prefix string) {
		p, err := parsePage(text, prefix)
		if err != nil {
			return
		}
		for _, o := range p.Contents {
			if !strings.HasPrefix(o.Key, prefix) || o.Size < 0 || o.LastModified.IsZero() {
				t.Errorf("%+v is taken", o)
			}
		}
		p.EncodingType = "" // its keys are plain now
		again, err := xml.Marshal(p)
		if err != nil {
			return // a key that XML cannot hold
		}
		q, err := parsePage(again, "")
		if err != nil || len(q.Contents) != len(p.Contents) || q.IsTruncated != p.IsTruncated {
			t.Fatalf("%s\n%+v, %v", again, q, err)
		}
		for i := range q.Contents {
			if strings.ToValidUTF8(p.Contents[i].Key, "") == p.Contents[i].Key && !q.Contents[i].LastModified.Equal(p.Contents[i].LastModified) {
				t.Errorf("%+v became %+v", p.Contents[i], q.Contents[i])
			}
		}
	})
}

func TestRangeSize(t *testing.T) {
	const bad = -1
	for _, c := range []struct {
		header      string
		off, length int64
		want        int64
	}{
		{"bytes 0-0/1", 0, 1, 1}, {"bytes 5-9/10", 5, 5, 10}, {"bytes 5-9/1000", 5, 5, 1000}, {"bytes 0-9223372036854775806/9223372036854775807", 0, 1<<63 - 1, 1<<63 - 1},
		{"bytes 5-9/9", 5, 5, bad}, {"bytes 5-9/10", 4, 5, bad}, {"bytes 5-9/10", 5, 4, bad}, {"bytes 9-5/10", 9, -3, bad}, {"bytes 5-9/*", 5, 5, bad},
		{"bytes */10", 0, 0, bad}, {"", 0, 0, bad}, {"bytes", 0, 0, bad}, {"5-9/10", 5, 5, bad}, {"bytes 5-9", 5, 5, bad}, {"bytes 5/10", 5, 1, bad},
		{"bytes -5-9/10", -5, 15, bad}, {"bytes 0-99999999999999999999/99999999999999999999", 0, 1, bad}, {"items 5-9/10", 5, 5, bad},
	} {
		size, err := rangeSize(c.header, c.off, c.length)
		if c.want == bad && err == nil || c.want != bad && (err != nil || size != c.want) {
			t.Errorf("%q at %d, %d bytes: %d, %v", c.header, c.off, c.length, size, err)
		}
	}
}

func FuzzRangeSize(f *testing.F) {
	f.Add("bytes 5-9/10", int64(5), int64(5))
	f.Fuzz(func(t *testing.T, header string, off, length int64) {
		size, err := rangeSize(header, off, length)
		if err == nil && (off < 0 || length <= 0 || off > size-length) {
			t.Errorf("%q: bytes %d+%d of %d", header, off, length, size)
		}
	})
}

func TestWholeSecond(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	for after, want := range map[time.Duration]int{0: 0, 1: 1, time.Second - 1: 1, time.Second: 1, time.Second + 1: 2} {
		if got := wholeSecond(at.Add(after)); !got.Equal(at.Add(time.Duration(want)*time.Second)) || got.Location() != time.UTC {
			t.Errorf("%v later: %v", after, got)
		}
	}
}

func TestClass(t *testing.T) {
	o := Options{Classes: map[string]string{"packs/": "COLD", "packs/hot/": "", "meta/": "HOT"}}
	for name, want := range map[string]string{"packs/a": "COLD", "packs/hot/a": "", "meta/a": "HOT", "index/a": "", "packs": ""} {
		if got := o.class(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestPrefix(t *testing.T) {
	for in, want := range map[string]string{"": "", "/": "", "a": "a/", "/a/b/": "a/b/", "//a//": "a/", "A b": "A b/"} {
		o, err := Options{Bucket: "bucket", Prefix: in, Credentials: []Provider{Static("a", "b", "")}}.checked()
		if err != nil || o.Prefix != want {
			t.Errorf("%q: %q, %v", in, o.Prefix, err)
		}
	}
	for endpoint, region := range map[string]string{
		"": "us-east-1", "s3.amazonaws.com": "us-east-1", "s3.eu-west-1.amazonaws.com": "eu-west-1", "s3.dualstack.eu-west-1.amazonaws.com": "eu-west-1", "minio:9000": "us-east-1",
	} {
		o, err := Options{Bucket: "bucket", Endpoint: endpoint, Credentials: []Provider{Static("a", "b", "")}}.checked()
		if err != nil || o.Region != region || o.Endpoint == "" {
			t.Errorf("%q: region %q, %v", endpoint, o.Region, err)
		}
	}
	if got := fmt.Sprint(Static("a", "b", "")); strings.Contains(got, " b ") {
		t.Errorf("a provider shows its secret: %s", got)
	}
}
