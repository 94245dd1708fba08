# nooelint: oelint.var.mandatoryvar.HOMEPAGE - there is none
SUMMARY = "Switches a large model between block-sparse tasks by reading only what differs"
DESCRIPTION = "A resident daemon that owns the memory in which a model's weights live, and the commands \
               that make, check and operate its bundles."
SECTION = "base"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# Where the sources are and which of them, to be set by whoever uses this layer.
SYNCHROMESH_GIT ?= "git:///srv/git/synchromesh.git;protocol=file;branch=main"
SYNCHROMESH_REV ?= "INVALID"

PV = "0.1.0+git"

SRC_URI = "${SYNCHROMESH_GIT}"
SRCREV = "${SYNCHROMESH_REV}"

S = "${UNPACKDIR}/git"

inherit cargo cargo-update-recipe-crates systemd useradd

# All crates of Cargo.lock with their checksums: `bitbake -c update_crates synchromesh` writes it.
# Included, not required: it is not there before that.
# nooelint: oelint.file.requireinclude,oelint.file.includenotfound
include ${BPN}-crates.inc

CARGO_BUILD_FLAGS += "--bin synchromesh"

SYSTEMD_SERVICE:${PN} = "synchromesh.service \
                         synchromesh-attach.socket \
                         synchromesh-control.socket \
                         synchromesh-metrics.socket"
# There is no bundle to serve yet; an image that brings one enables the units.
SYSTEMD_AUTO_ENABLE:${PN} = "disable"

USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --no-create-home --shell /sbin/nologin --user-group synchromesh"

do_install() {
    cargo_do_install
    # What all packages install besides the program; no manual pages: to make them, it would have to run.
    bash ${S}/packaging/stage.sh ${D}
}

FILES:${PN} += "${systemd_system_unitdir} \
                ${nonarch_libdir}/sysusers.d \
                ${nonarch_libdir}/tmpfiles.d"
CONFFILES:${PN} = "${sysconfdir}/synchromesh/synchromesh.yaml"

CVE_PRODUCT = "synchromesh"
