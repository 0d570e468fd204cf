/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where a kprobe finds the arguments of the function that it stands at. The layout is the ABI of
 * ptrace and does not change; only the registers that are read have a name.
 */
#ifndef CONNTRACKER_REGISTERS_H
#define CONNTRACKER_REGISTERS_H

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	unsigned long callee_saved[6];
	unsigned long scratch[4];
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
};

_Static_assert(__builtin_offsetof(struct pt_regs, di) == 112, "pt_regs.di");

#define FIRST_ARGUMENT(regs) ((void *)(regs)->di)
#define SECOND_ARGUMENT(regs) ((void *)(regs)->si)

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
	unsigned long x[31];
};

#define FIRST_ARGUMENT(regs) ((void *)(regs)->x[0])
#define SECOND_ARGUMENT(regs) ((void *)(regs)->x[1])

#else
#error "which registers hold the arguments?"
#endif

#endif
