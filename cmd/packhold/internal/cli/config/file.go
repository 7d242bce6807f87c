// Package config is the configuration: the file and its grammar, the folders, and where each effective setting came from.
package config

// File is the configuration file: JSON, with comments from // or # to the end of the line and trailing commas allowed.
// Every field may be missing. The schema in config.schema.json says the same to editors; a test holds the two together.
type File struct {
	Schema        string   `json:"$schema"` // for editors, not used
	Storage       *Storage `json:"storage"`
	LimitUpload   string   `json:"limit_upload"`
	LimitDownload string   `json:"limit_download"`
	Compression   string   `json:"compression"`
	Exclude       Strings  `json:"exclude"`
	ExcludeFile   Strings  `json:"exclude_file"`
	ExcludeCaches bool     `json:"exclude_caches"`
	OneFileSystem bool     `json:"one_file_system"`
	Tags          Strings  `json:"tags"`
	Jobs          []Job    `json:"jobs"`
}

// Storage says where the repository is. Which fields belong to it depends on the type.
type Storage struct {
	Type        string  `json:"type"`
	Path        string  `json:"path"`          // local, sftp
	Host        string  `json:"host"`          // sftp
	Port        int     `json:"port"`          // sftp
	User        string  `json:"user"`          // sftp
	Identity    Strings `json:"identity_file"` // sftp
	KnownHosts  Strings `json:"known_hosts"`   // sftp
	Command     Strings `json:"command"`       // sftp
	Bucket      string  `json:"bucket"`        // s3
	Endpoint    string  `json:"endpoint"`      // s3
	Prefix      string  `json:"prefix"`        // s3
	Region      string  `json:"region"`        // s3
	PlainHTTP   bool    `json:"plain_http"`    // s3
	Addressing  string  `json:"addressing"`    // s3
	Profile     string  `json:"profile"`       // s3
	CAFile      string  `json:"ca_file"`       // s3
	PackClass   string  `json:"pack_class"`    // s3
	ReadBack    bool    `json:"read_back"`     // s3
	Connections int     `json:"connections"`   // sftp, s3
}

// Job is a named backup. Its lists are added to those of the file, its other fields replace them.
type Job struct {
	Name          string  `json:"name"`
	Source        Strings `json:"source"`
	Type          string  `json:"type"`
	Schedule      string  `json:"schedule"`
	Retention     string  `json:"retention"`
	Compression   string  `json:"compression"`
	Exclude       Strings `json:"exclude"`
	ExcludeFile   Strings `json:"exclude_file"`
	ExcludeCaches *bool   `json:"exclude_caches"`
	OneFileSystem *bool   `json:"one_file_system"`
	Tags          Strings `json:"tags"`
}

// Strings is a list that may be written as a single string.
type Strings []string

// Title returns the job's name, or its first source where it has none.
func (j *Job) Title() string {
	if j.Name == "" && len(j.Source) > 0 {
		return j.Source[0]
	}
	return j.Name
}

// Job finds a job by its title.
func (f *File) Job(title string) (*Job, bool) {
	for i := range f.Jobs {
		if f.Jobs[i].Title() == title {
			return &f.Jobs[i], true
		}
	}
	return nil, false
}

// BackupTypes are the values of a backup's type, the default first.
func BackupTypes() []string { return []string{"incremental", "full", "differential"} }

// Compressions are the values of a compression setting, the default first.
func Compressions() []string { return []string{"auto", "off", "fastest", "default", "better", "best"} }

// StorageTypes are the values of a storage's type.
func StorageTypes() []string { return []string{"local", "sftp", "s3"} }

// Addressings are the values of an S3 storage's addressing, the default first.
func Addressings() []string { return []string{"auto", "path", "virtual-host"} }
